// Words for what the node answers. Whatever a container or an image brought is cut, and shows its
// controls: a text that turns its neighbours around, or hides, is a way to lie to the reader.
const TEXT_CHARS_MAX = 4000;
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
// Colours and moves of a terminal (ECMA-48), which say nothing here. A text for its title that has no end, or
// is long, is shown: it could be what a line is about.
const TERMINAL = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]{0,200}(?:\u0007|\u001b\\)|[@-Z\\^_])/g;

function clean(text, most = TEXT_CHARS_MAX) {
  const all = String(text ?? '');
  const plain = all.slice(0, most * 2).replace(TERMINAL, '').replace(CONTROLS, '·');
  if (plain.length <= most && all.length <= most * 2) return plain;
  return `${plain.slice(0, most)}… (${all.length - Math.min(most, all.length)} more characters)`;
}

const tone = {
  of(container) {
    const { status, reason } = container;
    if (status === 'failed' || status === 'unhealthy' || status === 'restarting') return 'bad';
    if (container.owner === 'unmanaged') return 'calm';
    if (reason && !CALM.has(reason)) return 'warn';
    if (status === 'running') return 'good';
    return status === 'stopped' ? 'calm' : 'busy';
  },
  isWrong: (container) => ['bad', 'warn'].includes(tone.of(container)) && !tone.isNoted(container),
  // Of what is as it should be, and worth a look nevertheless.
  isNoted: (container) => container.reason === 'RolledBack' && tone.of(container) === 'warn',
};
// Reasons of what is as it was asked for.
const CALM = new Set(['StopRequested', 'Completed', 'ExitedCleanly', 'Scheduled', 'WaitsFor']);
const MOVING = new Set(['pending', 'pulling', 'creating', 'stopping', 'removing']);
const WEIGHT = { bad: 0, warn: 1, busy: 2, good: 3, calm: 4 };

function bytes(count) {
  if (count === null || count === undefined) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let left = count;
  while (left >= 1024 && unit < units.length - 1) { left /= 1024; unit += 1; }
  return `${unit && left < 10 ? left.toFixed(1) : Math.round(left)} ${units[unit]}`;
}

const cores = (count) => (count === null || count === undefined ? '–' : count < 0.0995 ? count.toFixed(3) : count.toFixed(2));
const many = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;
const share = (part, whole) => (whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0);

function length(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

const ago = (time) => (time ? `${length(now() - Date.parse(time))} ago` : '');
const since = (time) => (time ? `for ${length(now() - Date.parse(time))}` : '');
const until = (time) => (Date.parse(time) > now() ? `in ${length(Date.parse(time) - now())}` : 'now');
// Times are UTC, as in the node's logs and its audit.
const clock = (time) => new Date(time).toISOString().slice(11, 19);
const moment = (time) => (time ? `${String(time).slice(0, 19).replace('T', ' ')} UTC` : '–');
const spaced = (word) => String(word ?? '').replaceAll('_', ' ');
const ports = (container) => (container.ports || [])
  .map((port) => `${port.host_ip && port.host_ip !== '0.0.0.0' ? `${port.host_ip}:` : ''}${port.host} → ${port.container}/${port.protocol}`)
  .join(', ');

// A value of a body.
const value = (any) => (any === undefined || any === null ? 'nothing' : typeof any === 'string' ? any : JSON.stringify(any));

// Members in which two bodies differ, by path.
function differences(before, after, path = '') {
  if (JSON.stringify(before) === JSON.stringify(after)) return [];
  const isMap = (any) => any !== null && typeof any === 'object' && !Array.isArray(any);
  if (!isMap(before) || !isMap(after)) return [{ field: path, before, after }];
  const fields = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  return fields.flatMap((field) => differences(before[field], after[field], path ? `${path}.${field}` : field));
}
