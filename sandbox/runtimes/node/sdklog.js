'use strict';
// sdk.log: one line of JSON each, with what the run is about, so that a program can read the log.

const check = require('./arguments.js');
const { clock } = require('./context.js');

const { stringify } = JSON;
const PER_MINUTE = 100;
const MS_PER_LINE = 60_000 / PER_MINUTE;
const MAX_LINE_BYTES = 256 * 1024 - 4; // A longer one would be cut into several lines, none of which is JSON.
const LEVELS = { debug: 'D', info: 'I', warn: 'W', error: 'E' }; // the letters are sandbox/protocol.py's

/** Takes one of the run's tokens, which come back evenly; throws when there is none. */
function takeToken(run) {
  const now = clock();
  const bucket = (run.logBucket ??= { tokens: PER_MINUTE, at: now });
  bucket.tokens = Math.min(PER_MINUTE, bucket.tokens + (now - bucket.at) / MS_PER_LINE);
  bucket.at = now;
  if (bucket.tokens < 1) {
    const retryAfterMs = Math.ceil((1 - bucket.tokens) * MS_PER_LINE);
    const message = `Rate limit exceeded: sdk.log takes ${PER_MINUTE} lines a minute; try again in ${retryAfterMs} ms`;
    throw Object.assign(new Error(message), { code: 'RATE_LIMITED', retryAfterMs });
  }
  bucket.tokens -= 1;
}

function encode(label, told, level, message, metadata) {
  const fields = {
    timestamp: new Date().toISOString(),
    level,
    message,
    tenant_id: told.tenantId ?? null,
    user_id: told.userId ?? null,
    script_id: told.scriptId ?? null,
    execution_id: told.executionId ?? null,
  };
  let text;
  try {
    text = stringify(metadata === undefined ? fields : { ...fields, metadata });
  } catch (error) {
    throw new TypeError(`${label}: metadata is not JSON: ${error.message}`);
  }
  const size = Buffer.byteLength(text);
  if (size > MAX_LINE_BYTES) throw new TypeError(`${label}: the line is ${size} bytes; at most ${MAX_LINE_BYTES} are allowed`);
  return text;
}

/** What JSON would leave out of an error. */
function described({ name, message, stack }) {
  return { name, message, stack };
}

/** `line(letter, text)` writes to the log. */
function create(current, line) {
  const log = {};
  for (const [level, letter] of Object.entries(LEVELS)) {
    const label = `sdk.log.${level}`;
    log[level] = (message, metadata = undefined) => {
      if (typeof message !== 'string') throw check.wrong(label, 'message', 'a string', message);
      const told = metadata instanceof Error ? described(metadata) : (metadata ?? undefined);
      if (told !== undefined) check.plain(label, 'metadata', told);
      const run = current();
      if (run === null) return;
      const text = encode(label, run.job.context.sdk ?? {}, level, message, told);
      takeToken(run);
      line(letter, text);
    };
  }
  return log;
}

module.exports = { create };
