// The page as a whole: who looks at it, and what is asked when.
const state = {
  me: null, opened: 0, health: null, capacity: null, plan: null, explained: null, hasList: false,
  heardAt: {}, containers: new Map(), rows: new Map(), usage: new Map(), remedies: new Map(), events: [],
};
const LONG_MS = 60_000;
const OLD_MS = 40_000;
let awaySince = null;
let lastGood = now();
let lastFault = '';
let seenSince = now();

// The answer of a call, or null with what has to be said of it.
async function heard(promise) {
  try {
    const answer = await promise;
    lastGood = now();
    return answer;
  } catch (fault) {
    heardFault(fault);
    return null;
  }
}

function heardFault(fault) {
  if (fault.status === 401) { askAgain(fault.message); return; }
  if (fault.status === undefined) { console.error(fault); return; }
  lastFault = faultText(fault);
  if (fault.isAway && state.me && !isShut) waitForNode();
}

// Nobody is given the token until the node answers again, after a while only by a word of the reader;
// and where another node answers, this one's page ends.
async function waitForNode() {
  if (isShut) return;
  isShut = true;
  awaySince = lastGood;
  // By this machine's own clock: whoever answers in the node's place says what time it likes.
  const cutAt = Date.now() - (now() - lastGood);
  judgeAge();
  for (;;) {
    await pause(1500);
    try {
      await call('version', { anyway: true });
      if (Date.now() - cutAt > LONG_MS) await wordOfReader();
      await goOn();
      return;
    } catch (fault) {
      if (fault.status === 401) { isShut = false; askAgain(fault.message); return; }
    }
  }
}

// Goes on with this page, if it is of the node and of the program that answer now.
async function goOn() {
  const me = await ask('whoami', { anyway: true });
  if (me.node !== state.me.node) { leave(`the node ${me.node} answers here now, and this was the page of ${state.me.node}`); return; }
  // What is shown, and was typed, is another caller's.
  const isOther = me.name !== state.me.name || String(me.names) !== String(state.me.names);
  if (isOther || me.version !== state.me.version) { location.reload(); return; }
  state.me = me;
  showRole();
  isShut = false;
  awaySince = null;
  lastGood = now();
  seenSince = now();
  judgeAge();
  for (const work of [listWork, nodeWork, usageWork, detailWork]) work.soon();
}

function showRole() {
  $('deploy-open').disabled = !may('deploy');
  if (may('deploy')) $('deploy-open').removeAttribute('title');
  else putAttribute($('deploy-open'), 'title', `Your role, ${role()}, may not deploy`);
}

// The token counts no more. The door stands over the page, which shows nothing meanwhile and keeps what was
// typed, until another token is given or the reader leaves.
function askAgain(why) {
  keepToken(null);
  if (!state.me) { leave(why); return; }
  if (isShut) return;
  isShut = true;
  put($('again-why'), `You were signed out: ${clean(why)}`);
  put($('again-title'), `Node ${clean(state.me.node || location.host)}`);
  $('again').showModal();
  place();
  $('again-token').value = '';
  $('again-token').focus();
}

async function enterAgain() {
  const given = $('again-token').value.trim();
  $('again-go').disabled = true;
  try {
    if (!isToken(given)) throw new CallFault(401, { detail: NO_TOKEN });
    keepToken(given);
    await goOn();
    $('again').close();
  } catch (fault) {
    keepToken(null);
    put($('again-why'), faultText(fault));
    $('again-token').value = '';
    $('again-token').focus();
  } finally {
    $('again-go').disabled = false;
  }
}

const NO_TOKEN = 'A token has no spaces and no letters beyond ASCII.';
const isToken = (text) => /^[\x21-\x7e]+$/.test(text);

function wordOfReader() {
  put($('stale-text'), `Something answers at ${location.host} again. Is it ${state.me.node}?`);
  show($('stale-go'), true);
  return new Promise((resolve) => {
    $('stale-go').onclick = () => { show($('stale-go'), false); resolve(); };
  });
}

// Says of what stands here how old it is, where that is too old.
function judgeAge() {
  place();
  const oldest = Math.min(state.heardAt.health ?? state.opened, state.heardAt.list ?? state.opened);
  const isOld = !document.hidden && now() - Math.max(oldest, seenSince) > OLD_MS;
  const isStale = state.me !== null && (awaySince !== null || isOld);
  show($('stale'), isStale);
  if (!isStale || !$('stale-go').hidden) return;
  put($('stale-text'), awaySince !== null ? `The node has not answered since ${clock(awaySince)} UTC. What stands here is as it was then.`
    : `What stands here is of ${clock(oldest)} UTC: the node answers, and not as it should (${lastFault}).`);
}

// What is said stands in the uppermost dialog: all beneath it is out of reach.
function place() {
  const top = ['again', 'question', 'deploy', 'detail'].map($).find((dialog) => dialog.open);
  const home = top || document.body;
  if ($('told').parentElement !== home) home.append($('told'));
  if ($('stale').parentElement !== home) home.prepend($('stale'));
}

// Ends it: the token is forgotten, and so is all that was shown.
function leave(why) {
  keepToken(null);
  if (why) sessionStorage.setItem('chas-why', why);
  location.replace(location.pathname);
}

let isEntering = false;
async function enter() {
  if (isEntering || state.me) return;
  isEntering = true;
  try {
    state.me = await ask('whoami');
    lastGood = now();
  } catch (fault) {
    // Over TLS a certificate may speak for the caller; without one, it is asked for its token.
    const isAsked = token !== null || fault.status !== 401;
    // A node that is busy, or starts, is no reason to have the token fetched again.
    if (fault.status === 401) keepToken(null);
    showDoor(isAsked ? faultText(fault) : '');
    if (fault.status !== 401) setTimeout(() => { if (!state.me && token !== null) enter(); }, 3000);
    return;
  } finally {
    isEntering = false;
  }
  show($('door'), false);
  show($('whole'), true);
  state.opened = now() - 2000;
  seenSince = now();
  showRole();
  for (const work of [listWork, nodeWork, usageWork, detailWork]) work.soon();
  followEvents();
  $('wrong-title').focus();
}

function showDoor(fault) {
  put($('door-host'), location.host);
  put($('door-fault'), fault);
  show($('door-fault'), fault !== '');
  show($('door'), true);
  $('token').value = '';
  $('token').focus();
}

function wire() {
  $('door-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const given = $('token').value.trim();
    if (!isToken(given)) { showDoor(NO_TOKEN); return; }
    keepToken(given);
    enter();
  });
  $('leave').addEventListener('click', () => leave());
  $('again-leave').addEventListener('click', () => leave());
  $('again').addEventListener('cancel', (event) => event.preventDefault());
  $('again-form').addEventListener('submit', (event) => { event.preventDefault(); enterAgain(); });
  $('filter').addEventListener('input', sortRows);
  $('filter-status').append(...['running', 'unhealthy', 'restarting', 'failed', 'pending', 'pulling', 'creating', 'stopping', 'stopped', 'removing'].map((word) => make('option', {}, word)));
  $('filter-status').addEventListener('change', sortRows);
  $('list').addEventListener('keydown', moveInList);
  $('wrong-all').addEventListener('click', () => { $('filter-status').value = 'wrong'; $('filter').value = ''; sortRows(); $('list-title').focus(); });
  $('held-confirm').addEventListener('click', confirmHeld);
  $('events-errors').addEventListener('change', () => $('events').classList.toggle('errors', $('events-errors').checked));
  $('deploy-open').addEventListener('click', () => openDeploy(null));
  $('deploy-check').addEventListener('click', checkDeploy);
  $('deploy-go').addEventListener('click', goDeploy);
  $('deploy-body').addEventListener('input', () => { forgetCheck(); });
  for (const name of ['detail', 'deploy']) $(`${name}-close`).addEventListener('click', () => $(name).close());
  $('detail').addEventListener('close', detailClosed);
  document.addEventListener('visibilitychange', () => {
    seenSince = now();
    if (!document.hidden && state.me) [listWork, nodeWork, usageWork, detailWork].forEach((work) => work.soon());
  });
  setInterval(() => { put($('clock'), `${clock(now())} UTC`); judgeAge(); }, 1000);
  for (const name of ['detail', 'deploy', 'question', 'again']) $(name).addEventListener('close', place);
  makeTabs();
}

wire();
const whyLeft = sessionStorage.getItem('chas-why');
sessionStorage.removeItem('chas-why');
if (token !== null || (location.protocol === 'https:' && !whyLeft)) enter();
else showDoor(whyLeft ? `You were signed out: ${clean(whyLeft)}` : '');
