// Scripts of a Millrace called from another program; see README.md and index.d.ts.
//
// Every call carries an idempotency key, made for it unless the caller gives one. So a request whose answer was lost is
// sent again, a few times and within the call's time, and there is one run however often it was sent. An event has no
// such key: it is sent again only when the server said that it did not take it.

const TRIES = 5; // of one request
const SYNC_LIMIT_MS = 960_000; // no script may run for longer than 900 s
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 10_000;
const FIRST_POLL_MS = 50;
const LAST_POLL_MS = 2_000;
const LATER = [429, 502, 503, 504]; // what a server, or a proxy before it, answers that could not do it now
const NOT_DONE = [429];
const OVER = ['completed', 'failed', 'timed_out', 'cancelled'];
const LONGEST_TIMER_MS = 2 ** 31 - 1; // a longer one would go off at once

export class MillraceError extends Error {
  get name() { return this.constructor.name; }
}

export class Unreachable extends MillraceError {}

export class Refused extends MillraceError {
  constructor(status, code, message, details) {
    super(`${code}: ${message}`);
    Object.assign(this, { status, code, details });
  }
}

export class NotOver extends MillraceError {
  constructor(runId, idempotencyKey) {
    super(`run ${runId ?? 'of this call'} is not over yet`);
    Object.assign(this, { runId, idempotencyKey });
  }
}

export class ScriptFailed extends MillraceError {
  constructor({ runId, status, error }) {
    super(`${error.code ?? status}: ${error.message}`);
    Object.assign(this, { runId, status, code: error.code, scriptStack: error.stack });
  }
}

class TimeIsUp extends Error {}

class Ended {
  constructor(runId, status, value, error, durationMs) {
    if (error) Object.freeze(error);
    Object.assign(this, { runId, status, ok: status === 'completed', value, error, durationMs });
    Object.freeze(this);
  }

  unwrap() {
    if (!this.ok) throw new ScriptFailed(this);
    return this.value;
  }
}

class Run {
  #client;
  #parse;

  constructor(id, script, client, parse) {
    Object.assign(this, { id, script });
    this.#client = client;
    this.#parse = parse;
    Object.freeze(this);
  }

  wait(patience = {}) {
    return this.#client._awaited(this.script, this.id, this.#parse, deadline(patience, this.#client.timeoutMs), null);
  }

  async result(patience = {}) {
    return (await this.wait(patience)).unwrap();
  }
}

export class Client {
  #base;
  #headers;
  #fetch;

  constructor({ url, workspace, apiKey, timeoutMs = SYNC_LIMIT_MS, fetch = globalThis.fetch }) {
    this.#base = `${String(url).replace(/\/+$/, '')}/v1/scripting`;
    this.#headers = { Authorization: `ApiKey ${apiKey}`, 'Account-Id': workspace };
    this.#fetch = fetch;
    this.timeoutMs = timeoutMs;
  }

  async call(script, input = {}, { parse = asItIs, idempotencyKey = crypto.randomUUID(), ...patience } = {}) {
    const until = deadline(patience, this.timeoutMs);
    const body = { mode: 'sync', trigger_type: 'http', payload: input };
    const given = await this.#asked('POST', path('scripts', script, 'execute'), until, { body, key: idempotencyKey })
      .catch(as(TimeIsUp, () => new NotOver(null, idempotencyKey)));
    if (given.status === 'completed') {
      return new Ended(given.run_id, 'completed', parse(given.result), null, given.duration);
    }
    // It is not over; or it is, and the answer says what went wrong, and not where.
    return this._awaited(script, given.run_id, parse, until, idempotencyKey);
  }

  async submit(script, input = {}, options = {}) {
    const { parse = asItIs, idempotencyKey = crypto.randomUUID(), timeoutMs, signal, ...more } = options;
    const body = { mode: 'async', trigger_type: 'http', payload: input, ...inSnakeCase(more) };
    const where = path('scripts', script, 'execute');
    const until = deadline({ timeoutMs, signal }, this.timeoutMs);
    const given = await this.#asked('POST', where, until, { body, key: idempotencyKey })
      .catch(as(TimeIsUp, (error) => new Unreachable(`POST ${where}: ${error.message}`)));
    return new Run(given.run_id, script, this, parse);
  }

  async publish(event, data, { source, subject, ...patience } = {}) {
    const body = { name: event, data: data ?? null, source, subject };
    const until = deadline(patience, this.timeoutMs);
    const given = await this.#asked('POST', path('events'), until, { body, repeatable: false })
      .catch(as(TimeIsUp, (error) => new Unreachable(`POST /events: ${error.message}`)));
    return given.event_id;
  }

  /** The end of a run, which is asked for until it is there. */
  async _awaited(script, runId, parse, until, key) {
    const where = path('scripts', script, 'runs', runId);
    try {
      let run;
      for (let pause = FIRST_POLL_MS; ; pause = Math.min(pause * 1.5, LAST_POLL_MS)) {
        run = await this.#asked('GET', where, until, { begun: true });
        if (OVER.includes(run.status)) break;
        await sleep(Math.min(pause, until.left()), until.signal);
      }
      if (run.status !== 'completed') {
        const error = { code: run.error_code, message: run.error ?? '', stack: run.error_stack };
        return new Ended(runId, run.status, null, error, run.duration_ms);
      }
      const value = await this.#asked('GET', `${where}/result`, until, { begun: true });
      return new Ended(runId, 'completed', parse(value), null, run.duration_ms);
    } catch (error) {
      throw error instanceof TimeIsUp ? new NotOver(runId, key) : error;
    }
  }

  /**
   * The JSON of an answer of success. Throws Refused, Unreachable, and TimeIsUp when the time is up and something may
   * have begun, or has before.
   */
  async #asked(method, where, until, { body, key, repeatable = true, begun = false } = {}) {
    const headers = { ...this.#headers };
    if (key !== undefined) headers['Idempotency-Key'] = key;
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    const text = body === undefined ? undefined : JSON.stringify(body);
    const request = { method, headers, body: text, redirect: 'manual' };
    let trouble = '';
    for (let tried = 0, pause = 0; tried < TRIES; tried += 1) {
      if (tried) await sleep(Math.min(pause, until.left()), until.signal);
      if (until.left() <= 0) break;
      pause = Math.min(FIRST_PAUSE_MS * 2 ** tried, LONGEST_PAUSE_MS);
      let answer;
      try {
        answer = await this.#fetched(where, request, until);
      } catch (error) {
        until.signal?.throwIfAborted();
        trouble = String(error.cause?.message || error.message);
        begun ||= error.cause?.code !== 'ECONNREFUSED';
        if (!repeatable) break;
        continue;
      }
      if (answer.ok) return json(answer, where);
      const refusal = refused(answer);
      if (!LATER.includes(answer.status) || !(repeatable || NOT_DONE.includes(answer.status))) throw refusal;
      trouble = refusal.message;
      begun ||= !NOT_DONE.includes(answer.status);
      if (/^\d{1,6}$/.test(answer.retryAfter ?? '')) pause = Math.min(answer.retryAfter * 1000, LONGEST_PAUSE_MS);
    }
    if (begun && until.left() <= 0) throw new TimeIsUp(trouble);
    throw new Unreachable(`${method} ${where}: ${trouble || 'there was no time to ask'}`);
  }

  /** One answer with its whole body, within the time that is left. */
  async #fetched(where, request, until) {
    const late = AbortSignal.timeout(Math.min(Math.max(1, Math.ceil(until.left())), LONGEST_TIMER_MS));
    const signal = until.signal ? AbortSignal.any([late, until.signal]) : late;
    const response = await this.#fetch(`${this.#base}${where}`, { ...request, signal });
    const { ok, status } = response;
    return { ok, status, retryAfter: response.headers.get('Retry-After'), text: await response.text() };
  }
}

function asItIs(value) {
  return value;
}

function deadline({ timeoutMs, signal }, otherwise) {
  const at = performance.now() + (timeoutMs ?? otherwise);
  return { signal, left: () => Math.max(0, at - performance.now()) };
}

function path(...parts) {
  // A lone half of a character has no percent-encoding.
  return parts.map((part) => `/${encodeURIComponent(String(part).toWellFormed?.() ?? part)}`).join('');
}

function inSnakeCase(options) {
  return Object.fromEntries(Object.entries(options).map(([name, value]) =>
    [name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), value]));
}

function as(kind, make) {
  return (error) => { throw error instanceof kind ? make(error) : error; };
}

function json(answer, where) {
  try {
    return JSON.parse(answer.text);
  } catch {
    throw new Unreachable(`${where}: this is not Millrace, it answers no JSON`);
  }
}

function refused({ status, text }) {
  let error;
  try {
    ({ error } = JSON.parse(text));
  } catch {
    error = null; // a proxy's page, most likely
  }
  const code = error?.code ?? `HTTP_${status}`;
  return new Refused(status, code, error?.message ?? text.slice(0, 300), error?.details ?? []);
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(done, ms);
    function done() {
      signal?.removeEventListener('abort', stop);
      resolve();
    }
    function stop() {
      clearTimeout(timer);
      reject(signal.reason);
    }
    signal?.addEventListener('abort', stop, { once: true });
    if (signal?.aborted) stop();
  });
}
