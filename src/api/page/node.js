// The node at a glance: what is wrong, with what helps; what is held; what it has.
const WRONG_MAX = 6;

const nodeWork = repeated(async () => {
  if (document.hidden) return 30_000;
  const [health, capacity, plan] = await Promise.all(['health', 'capacity', 'plan'].map((name) => heard(ask(name))));
  Object.assign(state, { health: health || state.health, capacity: capacity || state.capacity, plan: plan || state.plan });
  if (health) state.heardAt.health = now();
  showNode();
  return 10_000;
});

function showNode() {
  showHead();
  showWrong();
  showHeld();
  showGlance();
}

const nodeTone = (word) => ({ healthy: 'good', degraded: 'warn', unhealthy: 'bad' })[word] || 'calm';

function showHead() {
  const { health, me } = state;
  put($('node-name'), clean(me.node || location.host, 100));
  const names = me.names ? `, for ${clean(me.names.join(' '), 200)}` : '';
  put($('who'), `${clean(me.name, 100)}: ${me.role}${names}`);
  if (!health) return;
  put($('verdict-word'), health.status);
  putClass($('verdict-word'), `word ${nodeTone(health.status)}`);
  const facts = [`up ${length(health.uptime * 1000)}`, `agent ${clean(me.version, 40)}`, location.host];
  put($('node-facts'), facts.join(' · '));
}

// Containers that are not as they should be, the worst first.
function wrongOnes() {
  const wrong = [...state.containers.values()].filter(tone.isWrong);
  const weight = (container) => WEIGHT[tone.of(container)];
  return wrong.sort((a, b) => weight(a) - weight(b) || a.name.localeCompare(b.name));
}

function showWrong() {
  const { health } = state;
  if (!health || !state.hasList) return;
  const alarms = health.alarms.filter((alarm) => alarm.health !== 'healthy');
  const notices = health.alarms.filter((alarm) => alarm.health === 'healthy');
  const wrong = wrongOnes();
  const isBad = alarms.some((alarm) => alarm.health === 'unhealthy') || wrong.some((one) => tone.of(one) === 'bad');
  const isWrong = wrong.length + alarms.length > 0;
  const held = cordonWords(health.cordon);
  putClass($('wrong'), isBad ? 'bad' : isWrong || held || health.status !== 'healthy' ? 'warn' : 'good');
  const counted = [wrong.length && many(wrong.length, 'container'), alarms.length && many(alarms.length, 'alarm')].filter(Boolean);
  const runs = many(health.resources.container_count, 'container runs', 'containers run');
  const title = isWrong ? `Wrong: ${counted.join(', ')}` : health.status === 'healthy' ? `Nothing is wrong; ${runs}` : `The node is ${health.status}: ${many(health.unsettled, 'container is', 'containers are')} on the way, or not shown to you; ${runs}`;
  put($('wrong-title'), held ? `${title}. The node is ${held}` : title);
  document.title = `${isWrong ? `✖ ${wrong.length + alarms.length} wrong` : held ? 'cordoned' : health.status} · ${state.me.node || location.host}`;
  const shown = wrong.slice(0, WRONG_MAX);
  shown.forEach(lookForRemedy);
  const key = [alarms, shown.map((one) => [one.id, one.status, one.reason, one.message, state.remedies.get(one.id)?.text])];
  putAll($('wrong-list'), key, () => [...alarms.map(alarmItem), ...shown.map(wrongItem)]);
  const noted = [...state.containers.values()].filter(tone.isNoted);
  show($('notices'), notices.length + noted.length > 0);
  put($('notices-title'), many(notices.length + noted.length, 'notice'));
  putAll($('notices-list'), [notices, noted.map((one) => [one.id, one.status, one.message])], () => [...noted.map(wrongItem), ...notices.map(alarmItem)]);
  show($('wrong-more'), wrong.length > WRONG_MAX);
  put($('wrong-all'), `Show all ${wrong.length} containers that are wrong`);
}

// Who holds the node closed, and how far a drain has come; nothing where it is open.
function cordonWords(cordon) {
  if (!cordon?.cordoned) return '';
  const { operator } = cordon;
  const by = [operator && `by ${clean(operator.by, 100)} ${since(operator.since)}`, cordon.chas && 'by CHaS'].filter(Boolean).join(' and ');
  if (!operator?.drained_since) return `cordoned ${by}: nothing new is started`;
  const left = cordon.left.filter((one) => !one.stays).length;
  return cordon.drained ? `drained ${by}` : `being drained ${by}: ${left ? many(left, 'container still runs', 'containers still run') : clean(cordon.unsure, 200) || 'others still run'}`;
}

function alarmItem(alarm) {
  const word = alarm.health === 'healthy' ? 'notice' : 'alarm';
  return make('li', {},
    make('span.top', {}, make(`span.word.${alarm.health === 'healthy' ? 'calm' : nodeTone(alarm.health)}`, {}, word),
      make('span.reason', {}, clean(alarm.name, 100)), make('span.quiet', {}, since(alarm.since))),
    make('span.any', {}, any(alarm.message || alarm.meaning)), make('span', {}, make('b', {}, 'What helps: '), any(alarm.remedy)));
}

function wrongItem(container) {
  const open = button('', () => openDetail(container.id), '.link');
  open.dataset.hold = container.id;
  open.append(any(container.name));
  const remedy = state.remedies.get(container.id)?.text;
  return make('li', {},
    make('span.top', {}, make(`span.word.${tone.of(container)}`, {}, container.status), open, make('span.reason', {}, clean(container.reason, 60))),
    container.message ? make('span.any', {}, any(clean(container.message, 400))) : null,
    remedy ? make('span', {}, make('b', {}, 'What helps: '), any(remedy)) : null);
}

// Asks once for each state of a container what would help.
async function lookForRemedy(container) {
  const key = [container.status, container.reason, container.message, container.generation].join('\n');
  if (state.remedies.get(container.id)?.key === key) return;
  state.remedies.set(container.id, { key, text: state.remedies.get(container.id)?.text });
  const explained = await heard(ask('explain', { id: container.id }));
  if (!explained) state.remedies.delete(container.id);
  if (!explained || state.remedies.get(container.id)?.key !== key) return;
  state.remedies.set(container.id, { key, text: explained.unblock || explained.blocked });
  showWrong();
}

function showHeld() {
  const names = state.health?.chas?.pending_prune || [];
  show($('held'), names.length > 0);
  if (!names.length) return;
  const generation = state.health.chas.generation;
  put($('held-text'), `Its set${generation === null ? '' : ` of generation ${generation}`} would end or change ${many(names.length, 'container')} at once. They run on: ${clean(names.join(', '), 600)}`);
  $('held-confirm').disabled = !may('confirm');
  put($('held-role'), may('confirm') ? '' : `Your role, ${role()}, may not confirm; it needs admin.`);
}

function showGlance() {
  const { health, capacity, plan } = state;
  if (!health || !capacity) return;
  const resources = health.resources;
  const reserved = (part, word) => `${word(part.reserved)} of ${word(part.total)} reserved`;
  const planned = (plan?.containers || []).concat(plan?.leftovers || []).filter((one) => one.steps.length);
  const waits = planned.filter((one) => one.steps.every((step) => step.action === 'wait'));
  const steps = planned.filter((one) => !waits.includes(one)).concat(waits);
  const planWord = steps.length > waits.length ? many(steps.length - waits.length, 'container has steps', 'containers have steps') : waits.length ? many(waits.length, 'container waits', 'containers wait') : 'nothing to do';
  const first = steps[0]?.steps[0];
  const [disk, whole] = [resources.disk_available_bytes, resources.disk_total_bytes];
  const glance = [
    ['CPU', `${cores(capacity.cpu.used)} cores`, reserved(capacity.cpu, cores), share(capacity.cpu.used, capacity.cpu.total), share(capacity.cpu.reserved, capacity.cpu.total)],
    ['Memory', bytes(capacity.memory.used), reserved(capacity.memory, bytes), share(capacity.memory.used, capacity.memory.total), share(capacity.memory.reserved, capacity.memory.total)],
    ['Disk', `${bytes(disk)} free`, `of ${bytes(whole)}`, share(whole - disk, whole)],
    ['Containers', `${resources.container_count} running`, `${capacity.containers.reserved} of at most ${capacity.containers.total}`],
    ['containerd', health.containerd.reachable ? 'reachable' : 'away', `${since(health.containerd.since)}${health.containerd.error ? `: ${clean(health.containerd.error, 200)}` : ''}`],
    ['CHaS', ...chasFacts(health.chas)],
    ['Plan', plan?.blocked ? 'blocked' : planWord,
      plan?.blocked ? clean(plan.blocked, 200) : first ? `${clean(steps[0].name || steps[0].id, 80)}: ${spaced(first.action)}, ${clean(first.why, 70)}` : ''],
  ];
  putAll($('glance'), glance, () => glance.map(([name, big, more, used, given]) => make('div', {},
    make('dt', {}, name), make('dd.value', {}, big), used === undefined ? null : make('dd', {}, bar(used, given)), make('dd.more', {}, more))));
}

function chasFacts(link) {
  if (!link) return ['none', 'the node takes what is pushed, and nothing else'];
  const desired = link.desired || {};
  const word = link.identity_conflict ? 'another node has this id' : !link.reachable ? 'away' : desired.stale ? 'reachable, set is old' : 'reachable';
  const facts = [since(link.since), link.generation === null ? '' : `generation ${link.generation}`, link.error, desired.fault,
    link.rejected ? `${link.rejected} rejected` : '', link.conflicts ? many(link.conflicts, 'conflict') : ''];
  return [word, clean(facts.filter(Boolean).join(' · '), 300)];
}

async function confirmHeld() {
  const link = state.health.chas;
  const names = link.pending_prune;
  await question({
    title: `End or change ${many(names.length, 'container')}?`,
    text: `As CHaS's set of generation ${link.generation} has it: ${clean(names.join(', '), 2000)}.\nWhat is ended does not come back by itself.`,
    yes: 'Confirm', danger: true,
    does: async () => {
      const answer = await ask('confirm', { query: link.generation === null ? {} : { generation: link.generation } });
      tell(`Confirmed: ${many(answer.ended, 'container ends', 'containers end')}.`);
      nodeWork.soon();
    },
  });
}
