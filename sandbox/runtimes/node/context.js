'use strict';
// The handler's second argument, and the calls that it makes to the platform.

const { inspect } = require('node:util');
const channel = require('./channel.js');

const { stringify, parse } = JSON;
const nanoseconds = process.hrtime.bigint;
const bufferFrom = Buffer.from;
const toNumber = Number;

/** Milliseconds of a clock that does not go back. */
function clock() {
  return toNumber(nanoseconds()) / 1e6;
}

const ARTIFACT_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
const MAX_CALLS = 100_000;
const MAX_CALL_BYTES = 1024 * 1024;

/** `header` is of the platform's reply; it may say why in a word, and when to ask again. */
function refusal(message, header = {}) {
  const error = new Error(message);
  if (header.code !== undefined) error.code = header.code;
  if (header.retry_after_ms !== undefined) error.retryAfterMs = header.retry_after_ms;
  return error;
}

/** The calls of one run that wait for the platform's answer. `hold` is called while there are some. */
class Calls {
  constructor(hold) {
    this.hold = hold;
    this.waiting = new Map();
    this.made = 0;
    this.open = true;
    this.entered = false; // the handler
  }

  async make(type, header, data) {
    if (!this.open) throw refusal('This run has ended');
    if (!this.entered) throw refusal("The platform can be called once the handler runs, not at the script's top level");
    if (this.made >= MAX_CALLS) throw refusal(`A run may make at most ${MAX_CALLS} calls`);
    this.made += 1;
    const id = this.made;
    const reply = await new Promise((resolve) => {
      this.waiting.set(id, resolve);
      this.hold();
      channel.send(type, Object.assign(Object.create(null), header, { id }), data);
    });
    if (reply.header.ok) return reply.value;
    // Made here, where the script's own lines are on the stack.
    throw refusal(reply.value, reply.header);
  }

  answer(header, data) {
    const settle = this.waiting.get(header.id);
    if (!settle) return;
    this.waiting.delete(header.id);
    if (this.waiting.size === 0) channel.letGo();
    settle({ header, value: parse(data.toString('utf8')) });
  }

  close() {
    this.open = false;
    this.waiting.clear();
  }
}

/** `label` is what the script calls the method. */
async function call(calls, method, params, label = method) {
  let data;
  try {
    data = bufferFrom(stringify(params), 'utf8');
  } catch (error) {
    throw new TypeError(`${label}: the data is not JSON: ${error.message}`);
  }
  if (data.length > MAX_CALL_BYTES) {
    throw new RangeError(`${label}: the data is ${data.length} bytes; at most ${MAX_CALL_BYTES} are allowed`);
  }
  return await calls.make('C', { method }, data);
}

function artifactBytes(data) {
  if (Buffer.isBuffer(data)) return [data, 'application/octet-stream'];
  if (ArrayBuffer.isView(data)) return [bufferFrom(data.buffer, data.byteOffset, data.byteLength), 'application/octet-stream'];
  if (data instanceof ArrayBuffer) return [bufferFrom(data), 'application/octet-stream'];
  if (typeof data === 'string') return [bufferFrom(data, 'utf8'), 'text/plain; charset=utf-8'];
  const text = stringify(data, null, 2);
  if (text === undefined) throw new TypeError('writeArtifact: data must be a string, a Buffer or a JSON value');
  return [bufferFrom(text, 'utf8'), 'application/json'];
}

function artifactWriter(calls, limits) {
  let count = 0;
  let bytes = 0;
  return async function writeArtifact(name, data, contentType) {
    if (typeof name !== 'string' || !ARTIFACT_NAME.test(name)) {
      throw new TypeError(
        `writeArtifact: name is ${inspect(name)}, but must be 1 to 128 letters, digits, dots, hyphens and underscores, and start with a letter or digit`,
      );
    }
    if (contentType !== undefined && (typeof contentType !== 'string' || !/^[\x20-\x7e]{1,200}$/.test(contentType))) {
      throw new TypeError(`writeArtifact: contentType is ${inspect(contentType)}, but must be 1 to 200 printable ASCII characters`);
    }
    const [content, natural] = artifactBytes(data);
    if (count + 1 > limits.artifacts) throw new RangeError(`writeArtifact: a run may write at most ${limits.artifacts} artifacts`);
    if (bytes + content.length > limits.artifact_bytes) {
      throw new RangeError(
        `writeArtifact: ${name} is ${content.length} bytes; ${limits.artifact_bytes - bytes} of the ${limits.artifact_bytes} bytes of a run are left`,
      );
    }
    count += 1;
    bytes += content.length;
    await calls.make('A', { name, content_type: contentType ?? natural }, content);
  };
}

/** What the platform tells the SDK shows in here as far as it has no older meaning. */
function membersOf({ sdk, ...members }, payload) {
  if (sdk === undefined) return members;
  const { tenantId = null, userId = null, organizationId = null, executionId = null } = sdk;
  return { ...members, tenantId, userId, organizationId, executionId, input: payload };
}

/** `job` is the job frame's header, `arrived` the reading of `clock` when it came. */
function createContext(job, payload, calls, arrived) {
  const deadline = arrived + job.timeout_ms;
  const warning = Math.min(job.timeout_ms / 10, 5000);
  const getRemainingTimeMs = () => Math.max(0, Math.round(deadline - clock()));
  const secrets = { ...job.secrets };
  // console.log(context) should not print them.
  Object.defineProperty(secrets, inspect.custom, { value: () => Object.fromEntries(Object.keys(secrets).map((name) => [name, '***'])) });
  return {
    ...membersOf(job.context, payload),
    secrets,
    getRemainingTimeMs,
    /** True in the last tenth of the time limit, but never earlier than 5 seconds before its end. */
    isTimingOut: () => getRemainingTimeMs() < warning,
    writeArtifact: artifactWriter(calls, job.limits),
    async publish(name, data) {
      if (typeof name !== 'string' || name === '') throw new TypeError('publish: name must be a string that is not empty');
      return await call(calls, 'events.publish', { name, data: data === undefined ? null : data });
    },
  };
}

module.exports = { Calls, call, clock, createContext, refusal };
