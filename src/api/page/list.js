// The list of containers. A row is made once; after that only what changed in it is written.
const DIRTY_MAX = 5;
const DRAWN_MS = 5000;
const dirty = new Set();

// Time between two lists at least, and at most: an event may be missed.
const LIST_MS_MIN = 1000;
const LIST_MS_MAX = 15_000;
let listed = -Infinity;

const listWork = repeated(async () => {
  if (document.hidden) return 30_000;
  const age = performance.now() - listed;
  const isFew = dirty.size <= DIRTY_MAX && age < LIST_MS_MAX;
  if (!isFew && age < LIST_MS_MIN) return LIST_MS_MIN - age;
  const ids = [...dirty];
  dirty.clear();
  if (isFew) await Promise.all(ids.map(lookAgain));
  else takeList(performance.now(), await heard(ask('list')));
  const moving = [...state.containers.values()].filter((one) => MOVING.has(one.status));
  if (moving.length <= DIRTY_MAX) moving.forEach((one) => dirty.add(one.id));
  return moving.length > 0 ? 2000 : LIST_MS_MAX;
});

async function lookAgain(id) {
  try {
    take((await call('show', { id })).json);
    changed();
  } catch (fault) {
    if (fault.status === 404) remove(id);
    else dirty.add(id), heardFault(fault);
  }
}

function takeList(asked, answer) {
  if (!answer) return;
  listed = performance.now();
  state.heardAt.list = now();
  const isFirst = !state.hasList;
  state.hasList = true;
  const seen = new Set(answer.containers.map((container) => container.id));
  answer.containers.forEach(take);
  // One that was made after the list was asked for is not in it.
  [...state.containers.keys()].filter((id) => !seen.has(id) && state.rows.get(id).made < asked).forEach(remove);
  changed();
  // An address that names a container shows it.
  const named = location.hash.slice(1);
  if (isFirst && state.containers.has(named)) openDetail(named);
}

function take(container) {
  state.containers.set(container.id, container);
  let row = state.rows.get(container.id);
  if (!row) state.rows.set(container.id, row = makeRow(container));
  writeRow(row, container);
}

function remove(id) {
  state.containers.delete(id);
  state.remedies.delete(id);
  state.usage.delete(id);
  state.rows.get(id)?.item.remove();
  state.rows.delete(id);
  changed();
}

// Shows what follows from the containers, once for all changes of one moment.
let isChanging = false;
function changed() {
  if (isChanging) return;
  isChanging = true;
  requestAnimationFrame(() => {
    isChanging = false;
    sortRows();
    showWrong();
    detailChanged();
  });
}

function makeRow(container) {
  const row = { state: make('span.word'), name: make('bdi'), image: make('span.line.small'), ports: make('span.line.small'), reason: make('span.reason'), message: make('span.message'),
    restarts: make('span.line.small'), cpu: make('span'), memory: make('span'), cpuGraph: graph('spark'), memoryGraph: graph('spark') };
  row.open = make('button.link', { type: 'button', 'data-hold': container.id, tabindex: -1, onclick: () => openDetail(container.id) }, row.name);
  row.item = make('li', {}, make('span.state', {}, row.state, row.restarts), make('span.names', {}, row.open, row.ports), make('span.whys', {}, make('span.line', {}, row.reason, row.message), row.image),
    make('span.number', {}, row.cpuGraph, row.cpu), make('span.number', {}, row.memoryGraph, row.memory));
  row.item.row = row;
  row.made = performance.now();
  row.item.id = `row-${container.id}`;
  return row;
}

function writeRow(row, container) {
  row.container = container;
  put(row.state, container.status);
  putClass(row.state, `word ${tone.of(container)}`);
  put(row.name, clean(container.name, 100));
  const owner = { push: '', chas: 'of CHaS' }[container.owner] ?? container.owner;
  if (put(row.ports, clean([ports(container), owner].filter(Boolean).join(' · '), 200))) putAttribute(row.ports, 'title', row.ports.shown);
  if (put(row.image, clean(container.image, 300))) putAttribute(row.image, 'title', row.image.shown);
  put(row.reason, clean(container.reason, 60));
  const pull = container.pull;
  const message = pull ? `${bytes(pull.fetched_bytes)} of ${bytes(pull.total_bytes)} fetched` : container.message;
  if (put(row.message, clean(message, 300))) putAttribute(row.message, 'title', row.message.shown);
  put(row.restarts, container.restart_count ? many(container.restart_count, 'restart') : '');
  row.text = [container.name, container.image, container.status, container.reason, container.owner, ...Object.entries(container.labels || {}).map((pair) => pair.join('='))]
    .join(' ').toLowerCase();
  if (!isUsing(container)) writeUsage(row, null);
}

const isUsing = (container) => container.status === 'running' || container.status === 'unhealthy';

function writeUsage(row, usage) {
  if (!usage) { put(row.cpu, ''); put(row.memory, ''); }
  else {
    put(row.cpu, `CPU ${cores(usage.cpu.at(-1))}`);
    put(row.memory, bytes(usage.memory.at(-1)));
    draw(row.cpuGraph, usage.cpu, 0.05);
    draw(row.memoryGraph, usage.memory, 1 << 20);
  }
  show(row.cpuGraph, Boolean(usage));
  show(row.memoryGraph, Boolean(usage));
}

// Rows stand by name, so that none moves away from under a hand.
function sortRows() {
  const [wanted, status] = [$('filter').value.trim().toLowerCase(), $('filter-status').value];
  const fits = (row) => (!wanted || wanted.split(/\s+/).every((word) => row.text.includes(word)))
    && (!status || (status === 'wrong' ? tone.isWrong(row.container) : row.container.status === status));
  const rows = [...state.rows.values()].sort((a, b) => (a.container.name < b.container.name ? -1 : 1));
  const list = $('list');
  let shown = 0;
  let before = null;
  for (const row of rows) {
    const at = before ? before.nextSibling : list.firstChild;
    if (at !== row.item) list.insertBefore(row.item, at);
    before = row.item;
    const is = fits(row);
    show(row.item, is);
    shown += is ? 1 : 0;
  }
  put($('list-count'), shown === rows.length ? `${rows.length}` : `${shown} of ${rows.length}`);
  show($('list-none'), shown === 0 && state.hasList);
  put($('list-none'), rows.length ? 'None fits.' : 'There are none yet. Deploy one, or have CHaS list one.');
  // One row is reached by Tab, the others from it by arrows.
  const reached = rows.find((row) => row.open.tabIndex === 0 && !row.item.hidden) || rows.find((row) => !row.item.hidden);
  rows.forEach((row) => { const index = row === reached ? 0 : -1; if (row.open.tabIndex !== index) row.open.tabIndex = index; });
}

function moveInList(event) {
  const step = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
  const from = event.target.closest('li')?.row;
  if (!step || !from) return;
  const open = [...$('list').children].filter((item) => !item.hidden);
  const to = open[Math.max(0, Math.min(open.length - 1, open.indexOf(from.item) + step))]?.row;
  event.preventDefault();
  from.open.tabIndex = -1;
  to.open.tabIndex = 0;
  to.open.focus();
}

const usageWork = repeated(async () => {
  if (document.hidden) return 30_000;
  const answer = await heard(ask('usage'));
  for (const one of answer?.containers || []) {
    const usage = state.usage.get(one.id) || { cpu: [], memory: [] };
    // Another look tells the mean since the last one; the first one has the node's own.
    const spent = one.cpu && usage.spent !== undefined ? one.cpu.usage_seconds - usage.spent : -1;
    const apart = (Date.parse(one.time) - usage.at) / 1000;
    add(usage.cpu, spent >= 0 && apart > 0 ? spent / apart : one.cpu?.used_cores ?? 0);
    add(usage.memory, one.memory?.used_bytes ?? 0);
    Object.assign(usage, { spent: one.cpu?.usage_seconds, at: Date.parse(one.time), limit: one.memory?.limit_bytes, pids: one.pids });
    state.usage.set(one.id, usage);
    const row = state.rows.get(one.id);
    if (row && isUsing(row.container)) writeUsage(row, usage);
  }
  detailUsage();
  return DRAWN_MS;
});

function add(values, next) {
  values.push(next);
  if (values.length > POINTS) values.shift();
}
