'use strict';
// Calls of the node's API. Each that the page makes stands here, and a test holds them to the router.
const CALLS = {
  version: 'GET /version',
  whoami: 'GET /whoami',
  health: 'GET /health',
  capacity: 'GET /capacity',
  plan: 'GET /plan',
  usage: 'GET /stats',
  events: 'GET /events',
  list: 'GET /containers',
  show: 'GET /containers/{id}',
  explain: 'GET /containers/{id}/explain',
  history: 'GET /containers/{id}/history',
  logs: 'GET /containers/{id}/logs',
  deploy: 'POST /containers/deploy',
  stop: 'POST /containers/{id}/stop',
  start: 'POST /containers/{id}/start',
  restart: 'POST /containers/{id}/restart',
  remove: 'DELETE /containers/{id}',
  rollback: 'POST /containers/{id}/rollback',
  confirm: 'POST /desired-state/confirm',
};
// Roles, each of which may do what those before it may.
const ROLES = ['read', 'deploy', 'exec', 'admin'];
const NEEDS = { deploy: 'deploy', stop: 'deploy', start: 'deploy', restart: 'deploy', remove: 'deploy', rollback: 'deploy', confirm: 'admin' };
const TOKEN_KEY = 'chas-token';
const ANSWER_MS = 30_000;
// The node sends a sign of life after 15 s without an event or a line.
const SILENT_MS = 40_000;
const HIDDEN_MS = 60_000;
const LINE_CHARS_MAX = 4 << 20;

let token = sessionStorage.getItem(TOKEN_KEY);
// Time by which the node's clock is before this one's.
let skew = 0;
const now = () => Date.now() + skew;

function heardTime(answer) {
  const difference = Date.parse(answer.headers.get('date')) - Date.now();
  if (Math.abs(difference - skew) > 2000) skew = difference;
}

function keepToken(given) {
  token = given;
  if (given === null) sessionStorage.removeItem(TOKEN_KEY);
  else sessionStorage.setItem(TOKEN_KEY, given);
}

// Failure of a call: the node's own words, or none, for it did not answer.
class CallFault extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the node answered ${status}`);
    this.status = status;
    this.code = problem.code;
    this.errors = Array.isArray(problem.errors) ? problem.errors : [];
  }
  get isAway() { return this.status === 0; }
}

// Whether nobody is given the token: the node went away, and another may answer in its place.
let isShut = false;

// Answer to one call. `signal` ends one that lasts; any other has its time.
async function call(name, { id, query, body, headers = {}, signal, anyway } = {}) {
  if (isShut && !anyway) throw new CallFault(0, { detail: 'the node does not answer' });
  const [method, path] = CALLS[name].split(' ');
  const target = path.replace('{id}', encodeURIComponent(id)) + (query ? `?${new URLSearchParams(query)}` : '');
  const asked = { ...headers };
  if (token && name !== 'version') asked.Authorization = `Bearer ${token}`;
  if (body !== undefined) asked['Content-Type'] = 'application/json';
  const late = new AbortController();
  const timer = signal ? null : setTimeout(() => late.abort(), ANSWER_MS);
  try {
    const answer = await fetch(target, {
      method, body, headers: asked, cache: 'no-store', redirect: 'error', signal: signal || late.signal,
    });
    heardTime(answer);
    if (answer.ok) return signal ? answer : { etag: answer.headers.get('etag'), json: await answer.json() };
    throw new CallFault(answer.status, await answer.json().catch(() => ({})));
  } catch (fault) {
    if (fault instanceof CallFault || signal?.aborted) throw fault;
    throw new CallFault(0, { detail: 'the node does not answer' });
  } finally {
    clearTimeout(timer);
  }
}

const ask = async (name, options) => (await call(name, options)).json;

// A key by which the node takes a change once, also where the call is made again.
function once() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return { 'Idempotency-Key': Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('') };
}

// Lines of an answer that lasts, as they come; several at once where they came together.
async function* linesOf(answer, alive = () => {}) {
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    rest += decoder.decode(value, { stream: true });
    if (rest.length > LINE_CHARS_MAX && !rest.includes('\n')) throw new Error('a line without an end');
    const lines = rest.split('\n');
    rest = lines.pop();
    if (lines.length) yield lines;
  }
}

const role = () => state.me?.role || 'read';
const may = (name) => !NEEDS[name] || ROLES.indexOf(role()) >= ROLES.indexOf(NEEDS[name]);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Work that is done again and again, one at a time: `after` what the last one says, or sooner if asked.
function repeated(work) {
  let timer = null;
  let due = Infinity;
  let busy = false;
  const at = (ms) => {
    const when = performance.now() + ms;
    if (when >= due) return;
    due = when;
    clearTimeout(timer);
    timer = setTimeout(run, ms);
  };
  async function run() {
    if (busy) { due = Infinity; at(200); return; }
    busy = true;
    due = Infinity;
    let next = 10_000;
    try {
      next = await work();
    } finally {
      busy = false;
      at(next);
    }
  }
  return { soon: (ms = 0) => at(ms), end: () => { clearTimeout(timer); due = -1; } };
}
