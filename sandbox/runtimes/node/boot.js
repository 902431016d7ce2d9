'use strict';
// First code in the jail. It says that it is ready, waits for a job, runs its handler and answers; then it
// waits for the next job of the same script. Everything that it needs is captured before a script is loaded.
// Nothing here is a wall: a script that takes this process over can lie about its own result, nothing more.

// Node brings its own modules compiled, but V8 takes compiled code only under the flags that it was made with, and the
// size of the heap is one of them. It is read when the heap is made: taken back here, it limits the heap all the same,
// and what is loaded from now on loads in half the time.
// (require('node:v8') would be the way, but loads much else, slowly, before it helps. Node 24 does not need it.)
if (process.versions.node < '24') {
  process.noDeprecation = true;
  process.binding('v8').setFlagsFromString('--max-old-space-size=0');
  delete process.noDeprecation;
}

const fs = require('node:fs');
const { compileFunction } = require('node:vm');

// Node's own loader looks for packages around each file, which takes longer than to compile it.
const loaded = new Map();
function own(name) {
  if (!name.startsWith('./')) return require(name);
  if (!loaded.has(name)) {
    const module = { exports: {} };
    const filename = `${__dirname}/${name.slice(2)}`;
    const body = compileFunction(fs.readFileSync(filename, 'utf8'), ['exports', 'require', 'module'], { filename });
    body(module.exports, own, module);
    loaded.set(name, module); // last, since a script may ask where there is no stack left to load it
  }
  return loaded.get(name).exports;
}

const channel = own('./channel.js');
const errors = own('./errors.js');
const { createLoader, external } = own('./modules.js');
const { Calls, clock, createContext } = own('./context.js');
const result = own('./result.js');
const log = own('./logs.js').install();

const { parse } = JSON;
const immediate = setImmediate;
const reallyExit = process.reallyExit.bind(process);
const activeResources = process.getActiveResourcesInfo.bind(process);
const base = { HOME: '/tmp', NODE_ENV: 'production', TZ: 'UTC' };

if (fs.existsSync(`${__dirname}/egress.js`)) own('./egress.js').install({ socket: '/run/egress.sock' });
process.getBuiltinModule = external;
process.mainModule = undefined;
errors.shortenStacks();
own('./globals.js').install(() => own('./sdk.js').create({ current: () => run, own, line: log.line }));

let script = null; // {files, loader}: kept for the next job, as is the state of the script's modules
let run = null; // {job, calls, payload}: of the job under way
let runs = 0;
let rehearsing = false;

function header(fields) {
  return Object.assign(Object.create(null), fields);
}

function end(type, fields, data) {
  const { calls, job: { once } } = run;
  run = null;
  const dropped = log.close();
  calls.close();
  channel.send(type, header({ ...fields, log_dropped: dropped, sdk_calls: calls.made }), data);
  if (once) channel.rest();
  hold();
}

function fail(kind, { name, message, stack = '' }) {
  if (run !== null) end('E', { kind, name, message, stack });
}

function failWith(kind, error) {
  if (run !== null) fail(kind, errors.describe(error, script.names));
}

/** What still keeps the event loop alive, once what is about to close has had a turn to do so. */
async function leftBehind() {
  for (let turn = 0; turn < 3 && activeResources().length > 0; turn += 1) await new Promise(immediate);
  return [...new Set(activeResources())];
}

async function succeed(value) {
  const mine = run;
  const bytes = result.encode(value, mine.job.limits.result_bytes);
  if (!Buffer.isBuffer(bytes)) return fail(bytes.kind, bytes);
  channel.letGo(); // what still waits for an answer gets none, and so does not go on
  const left = await leftBehind();
  if (run === mine) end('R', { left }, bytes);
}

// Only what differs is touched: setting TZ, even to what it is, costs more than a small handler.
function setEnvironment(env) {
  const wanted = { ...base, ...env };
  for (const name of Object.keys(process.env)) if (!(name in wanted)) delete process.env[name];
  for (const name of Object.keys(wanted)) if (process.env[name] !== wanted[name]) process.env[name] = wanted[name];
}

function unpack(job, data) {
  let at = job.payload;
  if (job.files !== null) {
    const files = new Map();
    for (const [path, size] of job.files) {
      files.set(path, Buffer.from(data.subarray(at, at + size)));
      at += size;
    }
    script = { names: new Set(files.keys()), loader: createLoader(files) };
  }
  return data.toString('utf8', 0, job.payload);
}

function findHandler(exported, entryPoint) {
  const name = entryPoint.replace(/^(?:module\.)?exports\./, '');
  let handler;
  if (exported !== null && (typeof exported === 'object' || typeof exported === 'function')) handler = exported[name];
  if (typeof handler === 'function') return handler;
  const found = exported !== null && typeof exported === 'object' ? Object.keys(exported).slice(0, 20).join(', ') : '';
  const exportsText = found ? `it exports ${found}` : 'it exports nothing by name';
  throw Object.assign(new Error(`The script does not export a function named ${name}; ${exportsText}`), { name: 'NoHandler' });
}

/** Runs one stage; ends the run with `kind` and returns undefined when it throws. */
function stage(kind, step) {
  try {
    return { value: step() };
  } catch (error) {
    failWith(kind, error);
    return undefined;
  }
}

async function execute(job, data) {
  const arrived = clock();
  const mine = { job, calls: new Calls(hold), payload: null };
  run = mine;
  log.open(job.limits.log_bytes);
  setEnvironment(job.env);
  const text = unpack(job, data);
  runs += 1;
  // In a reused jail, sockets that were closed meanwhile must be seen as closed before the script uses them.
  if (runs > 1) await new Promise(immediate);
  channel.letGo();
  const loaded = stage('load_error', () => script.loader.load(job.main));
  if (!loaded || run !== mine) return;
  const handler = stage('no_handler', () => findHandler(loaded.value, job.entry_point));
  if (!handler || run !== mine) return;
  const payload = parse(text);
  const context = createContext(job, payload, mine.calls, arrived);
  mine.payload = payload;
  mine.calls.entered = true;
  channel.send('S', header({}));
  const call = handler.value;
  try {
    const value = await call(payload, context);
    if (run === mine) await succeed(value);
  } catch (error) {
    if (run === mine) failWith('exception', error);
  }
}

process.exit = (code) => {
  const number = Number(code ?? process.exitCode ?? 0) & 255;
  fail('exit', { name: 'ProcessExit', message: `The script called process.exit(${number}) before its handler returned` });
  reallyExit(number);
};
process.on('uncaughtException', (error, origin) => {
  if (origin === 'uncaughtException' && process.listenerCount('uncaughtException') === 1) failWith('exception', error);
});
process.on('unhandledRejection', (error) => {
  if (process.listenerCount('unhandledRejection') === 1) failWith('exception', error);
});
process.on('beforeExit', () => {
  fail('no_result', {
    name: 'NoResult',
    message: "The handler's promise never settled: nothing was left that could settle it",
  });
});

function onFrame(type, head, data) {
  if (type === 'J') execute(head, data);
  else if (type === 'P' && run !== null) run.calls.answer(head, data);
}

function hold() {
  if (!rehearsing) channel.hold(onFrame);
}

// A rehearsal compiles what every job needs, and again with what was learnt, while nobody waits for it: the first
// job then takes a quarter of the time.
async function rehearse() {
  const source = `exports.handler = async (payload, context) => {
    console.log('%s', payload.name, { left: context.getRemainingTimeMs() });
    return { message: payload.name };
  };`;
  const payload = '{"name":"rehearsal"}';
  const limits = { result_bytes: 1000, log_bytes: 1000, artifact_bytes: 0, artifacts: 0 };
  const job = {
    main: 'index.js', entry_point: 'exports.handler', context: {}, secrets: {}, env: {}, timeout_ms: 1000, limits,
    payload: payload.length, files: [['index.js', source.length]],
  };
  rehearsing = true;
  channel.mute(true);
  for (let round = 0; round < 4; round += 1) await execute(job, Buffer.from(payload + source));
  channel.mute(false);
  rehearsing = false;
  script = null;
  runs = 0;
}

// The large libraries, in a jail that is to have them ready.
const names = process.argv.splice(2);
for (const name of names) if (name !== '--hurry') external(name);

(names.includes('--hurry') ? Promise.resolve() : rehearse()).then(() => {
  channel.send('B', header({}));
  onFrame(...channel.waitForFrame());
});
