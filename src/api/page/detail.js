// One container: why it is where it is, its orders, output, events, history and body.
const TABS = [['logs', 'Logs'], ['events', 'Events'], ['history', 'History'], ['why', 'Why'], ['body', 'Body']];
let openId = null;
let openTab = 'logs';
let endTab = () => {};
let opener = null;
let shownStage = '';

const detailWork = repeated(async () => {
  if (!openId || document.hidden) return 60_000;
  await detailLook();
  return MOVING.has(state.containers.get(openId)?.status) ? 2000 : 15_000;
});
const detailSoon = () => detailWork.soon(300);

async function detailLook() {
  const id = openId;
  const explained = await heard(ask('explain', { id }));
  if (!explained || id !== openId) return;
  state.explained = explained;
  showDetail();
  if (openTab === 'why') showWhy();
}

function openDetail(id) {
  if (!state.containers.has(id)) { tell('That container is there no more.'); return; }
  if (openId === id) return;
  opener = document.activeElement;
  openId = id;
  state.explained = null;
  history.replaceState(null, '', `#${id}`);
  if (!$('detail').open) $('detail').showModal();
  showDetail();
  selectTab(state.containers.get(id).owner === 'unmanaged' ? 'body' : 'logs');
  detailUsage();
  detailWork.soon();
  $('detail').scrollTop = 0;
  document.querySelector('#detail h2').focus();
}

function detailClosed() {
  endTab();
  endTab = () => {};
  openId = null;
  history.replaceState(null, '', location.pathname);
  if (opener?.isConnected) opener.focus();
}

function detailChanged() {
  if (!openId) return;
  if (state.containers.has(openId)) showDetail();
  else { $('detail').close(); tell('The container is removed.'); }
}

function showDetail() {
  const container = state.containers.get(openId);
  if (!container) return;
  const shade = tone.of(container);
  put($('detail-name'), clean(container.name));
  put($('detail-status'), container.status);
  putClass($('detail-status'), `word ${shade}`);
  const explained = state.explained?.id === openId ? state.explained : null;
  putClass($('detail-why'), `why ${shade}`);
  const help = explained?.unblock;
  const next = explained?.next_attempt || container.next_attempt;
  putAll($('detail-why'), [container.reason, container.message, help, next, explained?.meaning], () => (container.reason || help ? [
    make('div', {}, make('span.reason', {}, clean(container.reason, 60)), container.reason ? ' — ' : '', any(container.message || explained?.meaning)),
    help ? make('div', {}, make('b', {}, 'What helps: '), any(help)) : null,
    next ? make('div', {}, 'Tried again ', when(next, until(next))) : null].filter(Boolean) : []));
  const isOurs = container.owner !== 'unmanaged';
  putAll($('detail-orders'), [openId, container.status, container.generation, role()], () => (isOurs ? orderButtons(container) : []));
  const said = !isOurs ? 'The node did not make it, and leaves it alone.'
    : may('stop') ? '' : `Your role, ${role()}, may look and not order: stop, start, restart, remove, roll back and change need deploy.`;
  put($('detail-role'), said);
  show($('detail-role'), said !== '');
  const stage = `${container.generation} ${container.status} ${container.reason}`;
  if (stage !== shownStage) {
    shownStage = stage;
    if (openTab === 'body') showBody();
    if (openTab === 'history') showHistory();
  }
}

function detailUsage() {
  const usage = openId && state.usage.get(openId);
  const box = $('detail-graphs');
  show(box, Boolean(usage));
  if (!usage) return;
  if (!box.cpu) {
    const figure = (name) => {
      const drawing = graph('wide');
      const text = make('span.quiet');
      box.append(make('div', {}, text, drawing));
      return { drawing, text, name };
    };
    box.cpu = figure('CPU');
    box.memory = figure('Memory');
  }
  draw(box.cpu.drawing, usage.cpu, 0.05);
  draw(box.memory.drawing, usage.memory, 1 << 20);
  const minutes = `the last ${Math.max(1, Math.round(usage.cpu.length * DRAWN_MS / 60_000))} min`;
  put(box.cpu.text, `CPU ${cores(usage.cpu.at(-1))} cores, at most ${cores(Math.max(...usage.cpu))} in ${minutes}`);
  put(box.memory.text, `Memory ${bytes(usage.memory.at(-1))}${usage.limit ? ` of ${bytes(usage.limit)}` : ''}, at most ${bytes(Math.max(...usage.memory))} in ${minutes}`);
}

function makeTabs() {
  $('detail-tabs').append(...TABS.map(([name, text]) => make('button', {
    type: 'button', role: 'tab', id: `tab-${name}`, 'aria-controls': 'detail-panel', onclick: () => selectTab(name),
  }, text)));
  $('detail-tabs').addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: TABS.length - 1 }[event.key];
    if (!step) return;
    const at = TABS.findIndex(([name]) => name === openTab);
    selectTab(TABS[(at + step) % TABS.length][0]);
    $(`tab-${openTab}`).focus();
  });
}

function selectTab(name) {
  endTab();
  endTab = () => {};
  openTab = name;
  for (const [one] of TABS) {
    const tab = $(`tab-${one}`);
    putAttribute(tab, 'aria-selected', String(one === name));
    tab.tabIndex = one === name ? 0 : -1;
  }
  const panel = $('detail-panel');
  putAttribute(panel, 'aria-labelledby', `tab-${name}`);
  panel.key = null;
  panel.replaceChildren();
  putClass(panel, name === 'logs' ? 'fill' : '');
  ({ logs: showLogs, events: showDetailEvents, history: showHistory, why: showWhy, body: showBody })[name]();
}

function showLogs() {
  const box = make('div.logs', { role: 'log', tabindex: 0, 'aria-label': 'Output', 'aria-live': 'off' });
  const streams = make('select', { 'aria-label': 'Stream', onchange: () => { endTab(); box.replaceChildren(); endTab = followLogs(openId, box, streams.value); } },
    make('option', { value: '' }, 'all output'), make('option', { value: 'stdout' }, 'stdout'), make('option', { value: 'stderr' }, 'stderr'));
  const end = button('To the end', () => { box.scrollTop = box.scrollHeight; });
  $('detail-panel').replaceChildren(make('div.orders', {}, streams, end, make('span.quiet', {}, 'It follows while you are at the end. Times are UTC.')), box);
  if (state.containers.get(openId)?.owner !== 'unmanaged') endTab = followLogs(openId, box, '');
}

function showDetailEvents() {
  const own = state.events.filter((event) => event.container?.id === openId).reverse();
  putAll($('detail-panel'), own.map((event) => event.id), () => [own.length
    ? make('ol.events', {}, ...own.map((event) => eventLine(event, false))) : make('p.quiet', {}, `None among the last ${EVENTS_MAX} of the node.`)]);
}

async function showHistory() {
  const id = openId;
  const told = await call('history', { id }).catch((fault) => { heardFault(fault); return fault; });
  if (id !== openId || openTab !== 'history') return;
  if (told instanceof Error) { $('detail-panel').replaceChildren(make('p.fault', {}, faultText(told))); return; }
  putAll($('detail-panel'), told.json, () => told.json.generations.map((one) => {
    const outcome = one.outcome;
    const back = !one.present && one.kept && may('rollback') ? button('Go back to it…', () => rollBack(id, one.generation)) : null;
    const facts = [one.by && `by ${one.by}`, one.at && ago(one.at), one.back_to && `back to ${one.back_to}`, one.revision !== null && one.revision !== undefined && `revision ${one.revision}`];
    return make('div.generation', {},
      make('div.orders', {}, make('h3', {}, `Generation ${one.generation}${one.present ? ', now' : ''}`),
        outcome ? make(`span.word.${resultTone(outcome)}`, {}, clean(spaced(outcome.result), 40)) : null, outcome?.reason ? make('span.reason', {}, clean(outcome.reason, 60)) : null, back),
      make('div.quiet', {}, any(facts.filter(Boolean).join(', '))), make('div.any', {}, any(one.image)),
      outcome?.message ? make('div', {}, any(clean(outcome.message, 400))) : null,
      one.changes?.length ? diffTable(one.changes) : null,
      one.changes_left_out ? make('div.quiet', {}, `${one.changes_left_out} more changes are not kept`) : null,
      !one.present && !one.kept ? make('div.quiet', {}, 'Nothing is kept to go back to.') : null);
  }));
}

const GOOD_RESULTS = new Set(['running', 'ran-well', 'ran', 'completed']);
function resultTone({ result, reason }) {
  if (GOOD_RESULTS.has(result)) return 'good';
  return reason || ['failed', 'rolled-back', 'unhealthy', 'restarting'].includes(result) ? 'bad' : 'calm';
}

function showWhy() {
  const told = state.explained?.id === openId ? state.explained : null;
  putAll($('detail-panel'), told || 'none', () => {
    if (!told) return [make('p.quiet', {}, 'Asking…')];
    const step = told.decision.step;
    const inputs = told.decision.inputs;
    const exit = inputs.ended || inputs.last_exit;
    const facts = [['Asked for', `${spaced(told.desired.state)}, generation ${told.desired.generation}, by ${told.desired.owner}`], ['Next step', `${spaced(step.action)}: ${step.why}`], ['Blocked', told.blocked],
      ['Attempts', told.attempts || ''], ['Restarts', inputs.restarts || ''], ['Waits', inputs.setback && `until ${moment(inputs.setback.until)}: ${inputs.setback.message}`],
      ['Last end', exit && `exit code ${exit.exit_code}${exit.reason ? `, ${exit.reason}` : ''}, ${moment(exit.at)}`],
      ['Last failure', inputs.last_failure && `${inputs.last_failure.reason}: ${inputs.last_failure.message}`],
      ['Probe', told.observed.health && `${told.observed.health.status}: ${told.observed.health.answer ?? ''}`],
      ['Reaches', told.network?.reaches?.join(', ')], ['Reached by', told.network?.reached_by?.join(', ')], ['Next run', told.next_run && moment(told.next_run)]];
    return [factsList(facts), make('details', {}, make('summary', {}, 'All that the node knows'), make('pre', { tabindex: 0 }, clean(JSON.stringify(told, null, 2), 40_000)))];
  });
}

const factsList = (facts) => make('dl.facts-list', {}, ...facts.filter(([, fact]) => fact !== null && fact !== undefined && fact !== '' && fact !== false)
  .flatMap(([name, fact]) => [make('dt', {}, name), make('dd', {}, any(clean(String(fact), 1000)))]));

async function showBody() {
  const id = openId;
  const one = await heard(ask('show', { id }));
  if (!one || id !== openId || openTab !== 'body') return;
  putAll($('detail-panel'), one, () => [factsList([['Id', one.id], ['Image', one.image], ['Digest', one.image_digest], ['Owner', one.owner],
    ['Generation', one.generation && `${one.generation}${one.applied_generation === one.generation ? '' : `; ${one.applied_generation ?? 'none'} runs`}`], ['Revision', one.revision],
    ['Address', [one.ip, one.ip6].filter(Boolean).join(', ')], ['Ports', ports(one)], ['Made', one.created && moment(one.created)], ['Started', one.started && moment(one.started)],
    ['Ended', one.finished && moment(one.finished)], ['Exit code', one.exit_code], ['Restarts', one.restart_count]]),
  one.spec ? make('pre', { tabindex: 0, 'aria-label': 'Body' }, clean(JSON.stringify(one.spec, null, 2), 40_000)) : null,
  make('p.quiet', {}, 'Values of the environment are not shown.')].filter(Boolean));
}
