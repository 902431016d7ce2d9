'use strict';
// What is behind the names context, sdk and events: made once in a jail, and about the run that is under way when it
// is used. So what a script keeps of it at its top level serves all runs. All of it is frozen.

const { inspect } = require('node:util');
const check = require('./arguments.js');
const { call, refusal } = require('./context.js');

const { defineProperty, freeze, getOwnPropertyDescriptors } = Object;
const NO_EXPIRY = null;
const MOST_SECONDS = 31_536_000; // a year, as millrace/cache.py

function deepFreeze(value) {
  for (const { value: member } of Object.values(getOwnPropertyDescriptors(value))) {
    if (member !== null && (typeof member === 'object' || typeof member === 'function')) deepFreeze(member);
  }
  return freeze(value);
}

function triggerOf(told, payload) {
  if (!told) return null;
  const type = told.type ?? null;
  return freeze({
    type,
    eventType: told.eventType ?? null,
    eventPayload: (type === 'event' ? payload?.data : null) ?? null,
    httpRequest: (type === 'http' ? payload : null) ?? null,
    cronExpression: told.cronExpression ?? null,
  });
}

/** Of the script and its workspace, and so the same in all runs of a jail. */
const LASTING = ['tenantId', 'scriptId'];
const OF_A_RUN = {
  organizationId: (run) => run.job.context.sdk?.organizationId ?? null,
  userId: (run) => run.job.context.sdk?.userId ?? null,
  executionId: (run) => run.job.context.sdk?.executionId ?? null,
  input: (run) => run.payload,
  trigger: (run) => (run.trigger ??= triggerOf(run.job.context.sdk?.trigger, run.payload)),
};
const ORDER = ['tenantId', 'userId', 'organizationId', 'scriptId', 'executionId', 'input', 'trigger'];

function lasting(current, name) {
  return () => current()?.job.context.sdk?.[name] ?? null;
}

function ofARun(current, name) {
  const read = OF_A_RUN[name];
  return () => {
    const run = current();
    if (run === null) return null;
    if (run.calls.entered) return read(run);
    throw new Error(`context.${name} is known once the handler runs: a script's top level is executed once for many runs`);
  };
}

function createContext(current) {
  const context = {};
  for (const name of ORDER) {
    const get = (LASTING.includes(name) ? lasting : ofARun)(current, name);
    defineProperty(context, name, { enumerable: true, get });
  }
  // console.log(context) should print values and not that there are getters.
  const known = () => (current()?.calls.entered ? ORDER : LASTING);
  const show = () => Object.fromEntries(known().map((name) => [name, context[name]]));
  defineProperty(context, inspect.custom, { value: show });
  return freeze(context);
}

function createCache(ask) {
  const key = (label, value) => check.text(label, 'key', value);
  return {
    async get(name) {
      return await ask('cache.get', { key: key('sdk.cache.get', name) });
    },
    async set(name, value, ttlSeconds = NO_EXPIRY) {
      const label = 'sdk.cache.set';
      key(label, name);
      if (value === undefined || typeof value === 'function' || typeof value === 'symbol') throw check.wrong(label, 'value', 'a value that JSON has', value);
      const ttl = ttlSeconds === NO_EXPIRY ? NO_EXPIRY : check.integer(label, 'ttlSeconds', ttlSeconds, 1, MOST_SECONDS);
      return await ask('cache.set', { key: name, value, ttl });
    },
    async delete(name) {
      return await ask('cache.delete', { key: key('sdk.cache.delete', name) });
    },
    async exists(name) {
      return await ask('cache.exists', { key: key('sdk.cache.exists', name) });
    },
    async increment(name, delta = 1) {
      const label = 'sdk.cache.increment';
      key(label, name);
      check.integer(label, 'delta', delta, -Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
      return await ask('cache.increment', { key: name, delta });
    },
    async expire(name, ttlSeconds) {
      const label = 'sdk.cache.expire';
      key(label, name);
      return await ask('cache.expire', { key: name, ttl: check.integer(label, 'ttlSeconds', ttlSeconds, 1, MOST_SECONDS) });
    },
  };
}

function createEvents(ask) {
  return {
    async publish(type, payload = null) {
      // The platform counts these apart from those of the handler's second argument.
      const params = { name: check.eventType('events.publish', type), data: payload, sdk: true };
      await ask('events.publish', params, 'events.publish');
      return true;
    },
  };
}

/**
 * `current` gives the run under way or null, `own` loads a module of the bootstrap, `line` writes a line of the log.
 * Returns {context, sdk, events}.
 */
function create({ current, own, line }) {
  async function ask(method, params, label = `sdk.${method}`) {
    const run = current();
    if (run === null) throw refusal('This run has ended');
    return await call(run.calls, method, params, label);
  }
  const events = createEvents(ask);
  const sdk = {
    http: own('./http.js').create(ask),
    db: own('./database.js').create(ask),
    cache: createCache(ask),
    log: own('./sdklog.js').create(current, line),
    events,
  };
  return { context: createContext(current), sdk: deepFreeze(sdk), events };
}

module.exports = { create };
