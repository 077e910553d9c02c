// The page as a whole: who looks at it, and what is asked when.
const state = {
  me: null, opened: 0, health: null, capacity: null, plan: null, explained: null, hasList: false,
  containers: new Map(), rows: new Map(), usage: new Map(), remedies: new Map(), events: [],
};
let awaySince = null;

// The answer of a call, or null with what has to be said of it.
async function heard(promise) {
  try {
    const answer = await promise;
    heardAnswer();
    return answer;
  } catch (fault) {
    heardFault(fault);
    return null;
  }
}

function heardAnswer() {
  if (awaySince === null) return;
  awaySince = null;
  show($('stale'), false);
  listWork.soon();
  nodeWork.soon();
}

function heardFault(fault) {
  if (fault.status === 401) { leave(fault.message); return; }
  if (!fault.isAway) { if (fault.status === undefined) console.error(fault); return; }
  awaySince ??= now();
  put($('stale'), `The node has not answered since ${clock(awaySince)} UTC. What stands here is as it was then.`);
  show($('stale'), true);
}

// Ends it: the token is forgotten, and so is all that was shown.
function leave(why) {
  keepToken(null);
  if (why) sessionStorage.setItem('chas-why', why);
  location.replace(location.pathname);
}

async function enter() {
  try {
    state.me = await ask('whoami');
  } catch (fault) {
    // Over TLS a certificate may speak for the caller; without one, it is asked for its token.
    const isAsked = token !== null || fault.status !== 401;
    keepToken(null);
    showDoor(isAsked ? faultText(fault) : '');
    return;
  }
  show($('door'), false);
  show($('whole'), true);
  state.opened = now() - 2000;
  $('deploy-open').disabled = !may('deploy');
  if (!may('deploy')) putAttribute($('deploy-open'), 'title', `Your role, ${role()}, may not deploy`);
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
    if (!/^[\x21-\x7e]+$/.test(given)) { showDoor('A token has no spaces and no letters beyond ASCII.'); return; }
    keepToken(given);
    enter();
  });
  $('leave').addEventListener('click', () => leave());
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
    if (!document.hidden && state.me) [listWork, nodeWork, usageWork, detailWork].forEach((work) => work.soon());
  });
  setInterval(() => put($('clock'), `${clock(now())} UTC`), 1000);
  makeTabs();
}

wire();
const whyLeft = sessionStorage.getItem('chas-why');
sessionStorage.removeItem('chas-why');
if (token !== null || (location.protocol === 'https:' && !whyLeft)) enter();
else showDoor(whyLeft ? `You were signed out: ${clean(whyLeft)}` : '');
