// Answers that last: the node's events, and the output of a container.
const EVENTS_MAX = 200;
const LINES_MAX = 2000;
let lastEvent = null;
const waiting = [];

// An answer that lasts: cut off where nothing comes of it, from before its head on, for a connection
// may be dead without a word; where nobody has looked for a while, for a browser has six connections to a
// node for all of its tabs; and by its `owner`.
function lasting(owner) {
  const cut = new AbortController();
  let [watch, hidden] = [null, null];
  const alive = () => { clearTimeout(watch); watch = setTimeout(() => cut.abort(), SILENT_MS); };
  const look = () => { clearTimeout(hidden); hidden = document.hidden ? setTimeout(() => cut.abort(), HIDDEN_MS) : null; };
  document.addEventListener('visibilitychange', look, { signal: cut.signal });
  owner?.addEventListener('abort', () => cut.abort(), { signal: cut.signal });
  alive();
  look();
  return { signal: cut.signal, alive, end: () => { clearTimeout(watch); clearTimeout(hidden); cut.abort(); } };
}

// Waits until somebody looks.
async function looked() {
  while (document.hidden) await new Promise((resolve) => document.addEventListener('visibilitychange', resolve, { once: true }));
}

// Reads the events for ever; after a cut from where it stood.
async function followEvents() {
  for (let wait = 1000; ; wait = Math.min(wait * 2, 15_000)) {
    await looked();
    const answered = lasting();
    const alive = () => { wait = 500; answered.alive(); };
    try {
      const headers = lastEvent === null ? {} : { 'Last-Event-ID': lastEvent };
      const query = lastEvent === null ? { after: 0 } : {};
      const answer = await call('events', { query, headers: { ...headers, Accept: 'text/event-stream' }, signal: answered.signal });
      put($('events-state'), 'live');
      let data = '';
      for await (const lines of linesOf(answer, alive)) {
        for (const line of lines) {
          if (line.startsWith('id: ')) lastEvent = line.slice(4);
          else if (line.startsWith('data: ')) data = line.slice(6);
          else if (line === '' && data) { takeEvent(data); data = ''; }
        }
      }
    } catch (fault) {
      if (fault instanceof CallFault) heardFault(fault);
    } finally {
      answered.end();
    }
    put($('events-state'), 'cut off, trying again');
    nodeWork.soon();
    await pause(wait * (0.5 + Math.random() / 2));
  }
}

function takeEvent(data) {
  let event;
  try { event = JSON.parse(data); } catch { return; }
  waiting.push(event);
  if (waiting.length > EVENTS_MAX) waiting.shift();
  if (waiting.length === 1) requestAnimationFrame(showEvents);
  // Those from before the page was opened change nothing that it has not read since.
  if (event.kind !== 'events_lost' && Date.parse(event.time) < state.opened) return;
  if (event.container && event.container.id) dirty.add(event.container.id);
  if (event.kind === 'events_lost' || !event.container) for (const id of state.containers.keys()) dirty.add(id);
  listWork.soon(250);
  nodeWork.soon(event.container ? 2000 : 400);
  if (event.container?.id === openId) detailSoon();
}

function showEvents() {
  const list = $('events');
  const made = waiting.splice(0).map(eventItem).reverse();
  list.prepend(...made);
  while (list.children.length > EVENTS_MAX) list.lastChild.remove();
  if (openId && openTab === 'events') showDetailEvents();
}

const STANDARD = new Set(['id', 'time', 'kind', 'container', 'code', 'is_error', 'message', 'explain']);
function eventItem(event) {
  state.events.push(event);
  if (state.events.length > EVENTS_MAX) state.events.shift();
  return eventLine(event, true);
}

function eventLine(event, isLinked) {
  const name = event.container?.name;
  const open = isLinked && name ? button('', () => openDetail(event.container.id), '.link') : null;
  if (open) open.append(any(name));
  const isTold = ([key, given]) => !STANDARD.has(key) && given !== null && !(key === 'does' && given === event.step);
  const fact = ([key, given]) => (key.endsWith('_ms') ? `${spaced(key.slice(0, -3))} ${given} ms` : `${spaced(key)} ${typeof given === 'string' ? given : JSON.stringify(given)}`);
  const facts = Object.entries(event).filter(isTold).map(fact);
  return make(event.is_error ? 'li.is-error' : 'li', {}, event.time ? when(event.time, clock(event.time)) : null,
    make('span.kind', {}, clean(spaced(event.kind), 60)), open ? ' · ' : null, open, event.code ? make('b', {}, ` ${clean(event.code, 60)}`) : null,
    event.message ? make('div.any', {}, any(clean(event.message, 400))) : null, facts.length ? make('div.quiet', {}, any(clean(facts.join(', '), 300))) : null);
}

// Output of a container, which follows until it is stopped.
function followLogs(id, box, stream) {
  const stop = new AbortController();
  const queue = [];
  let last = null;
  let seen = new Set();
  let isDue = false;
  let isAtEnd = true;
  const flush = () => {
    isDue = false;
    box.append(...queue.splice(0).slice(-LINES_MAX));
    for (let over = box.childElementCount - LINES_MAX; over > 0; over -= 1) box.firstChild.remove();
    if (isAtEnd) box.scrollTop = box.scrollHeight;
  };
  box.onscroll = () => { isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40; };
  const sizes = new ResizeObserver(() => { if (isAtEnd) box.scrollTop = box.scrollHeight; });
  sizes.observe(box);
  const write = (item) => {
    queue.push(item);
    if (queue.length > LINES_MAX) queue.shift();
    if (!isDue) { isDue = true; requestAnimationFrame(flush); }
  };
  const takeLine = (text) => {
    if (!text) return;
    const { time, stream: of, line } = JSON.parse(text);
    // The lines of the last moment come again after a cut.
    const key = `${of} ${line}`;
    if (time === last && seen.has(key) && isAgain) return;
    if (time !== last && !(isAgain && time < last)) { isAgain = false; seen = new Set(); last = time; }
    seen.add(key);
    said = '';
    write(make(`div.${of === 'stderr' ? 'stderr' : 'stdout'}`, {}, when(time, clock(time)), ' ', of === 'stderr' ? 'err ' : '', clean(line)));
  };
  let isAgain = false;
  let said = '';
  const note = (text) => { if (text !== said) write(make('div.note', {}, said = text)); };
  (async () => {
    while (!stop.signal.aborted) {
      const answered = lasting(stop.signal);
      try {
        const query = { follow: true, ...(last ? { since: last, tail: 'all' } : { tail: 300 }), ...(stream ? { stream } : {}) };
        const answer = await call('logs', { id, query, headers: { Accept: 'application/x-ndjson' }, signal: answered.signal });
        for await (const lines of linesOf(answer, answered.alive)) lines.forEach(takeLine);
        note('— it prints nothing more: it is at rest —');
      } catch (fault) {
        if (stop.signal.aborted) return;
        if (fault instanceof CallFault) heardFault(fault);
        if (!document.hidden) note(fault instanceof CallFault ? `— ${faultText(fault)} —` : '— it was cut off, and is asked for again —');
        if (fault.status === 404) return;
      } finally {
        answered.end();
      }
      isAgain = true;
      await pause(2000);
      await looked();
    }
  })();
  return () => { stop.abort(); sizes.disconnect(); };
}
