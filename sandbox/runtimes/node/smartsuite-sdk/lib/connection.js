'use strict';

const { SmartSuiteError } = require('./error.js');
const { version } = require('../package.json');

const DEFAULTS = { baseUrl: 'https://app.smartsuite.com', timeout: 30_000, maxRetries: 3, maxRetryDelay: 30_000 };
const FIRST_DELAY = 1_000;

/** Sends requests and reads answers. The credentials are private, so printing a client does not show them. */
class Connection {
  #headers;
  #base;
  #options;

  constructor(options) {
    const { apiKey, accountId, ...rest } = options ?? {};
    this.#headers = {
      Authorization: `Token ${credential('apiKey', apiKey)}`,
      'Account-Id': credential('accountId', accountId),
      Accept: 'application/json',
      'User-Agent': `smartsuite-sdk/${version}`,
    };
    const given = Object.entries(rest).filter(([, value]) => value !== undefined);
    for (const [name] of given) {
      if (!(name in DEFAULTS)) throw new TypeError(`SmartSuite: unknown option ${JSON.stringify(name)}`);
    }
    this.#options = { ...DEFAULTS, ...Object.fromEntries(given) };
    for (const name of ['timeout', 'maxRetries', 'maxRetryDelay']) wholeNumber(name, this.#options[name]);
    this.#base = baseOf(this.#options.baseUrl);
  }

  /** The parsed answer; null when there is none. `query` values may be arrays; undefined ones are left out. */
  async send(method, path, { query = {}, body } = {}) {
    for (let attempt = 0; ; attempt += 1) {
      const response = await this.#fetch(method, path, query, body);
      const answer = await read(response);
      if (response.ok && answer !== undefined) return answer;

      const retryAfter = response.status === 429 ? delayOf(response.headers.get('retry-after')) : undefined;
      const delay = retryAfter ?? Math.min(FIRST_DELAY * 2 ** attempt, this.#options.maxRetryDelay);
      if (response.status !== 429 || attempt >= this.#options.maxRetries || delay > this.#options.maxRetryDelay) {
        throw new SmartSuiteError({ status: response.status, body: answer ?? 'not JSON', method, path, retryAfter });
      }
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }

  #fetch(method, path, query, body) {
    const url = new URL(`${this.#base}/api/v1${path}`);
    for (const [name, value] of Object.entries(query)) {
      for (const item of [value].flat()) if (item !== undefined) url.searchParams.append(name, String(item));
    }
    const headers = { ...this.#headers };
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    return fetch(url, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      redirect: 'manual', // the credentials are for this address only
      signal: AbortSignal.timeout(this.#options.timeout),
    });
  }
}

/** The JSON value, null for an empty body, the text of a failure that is not JSON, undefined for a success that is not. */
async function read(response) {
  const text = await response.text();
  if (text === '') return response.ok ? null : '';
  try {
    return JSON.parse(text);
  } catch {
    return response.ok ? undefined : text;
  }
}

/** Milliseconds to wait: the header holds seconds or a date. */
function delayOf(header) {
  if (header === null) return undefined;
  if (/^\s*\d+(\.\d+)?\s*$/.test(header)) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

function credential(name, value) {
  if (typeof value !== 'string' || !/^[\x21-\x7e]+$/.test(value)) {
    throw new TypeError(`SmartSuite: ${name} must be a string of visible characters`);
  }
  return value;
}

function wholeNumber(name, value) {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new TypeError(`SmartSuite: ${name} must be a whole number, not ${String(value)}`);
  }
}

function baseOf(baseUrl) {
  const url = URL.canParse(baseUrl) ? new URL(baseUrl) : null;
  if (url === null || !['https:', 'http:'].includes(url.protocol)) {
    throw new TypeError(`SmartSuite: baseUrl must be an http or https URL, not ${String(baseUrl)}`);
  }
  return url.origin + url.pathname.replace(/\/+$/, '');
}

/** An id as a path segment. */
function segment(name, id) {
  if (typeof id !== 'string' || id === '' || id === '.' || id === '..') {
    throw new TypeError(`SmartSuite: ${name} must be an id, not ${JSON.stringify(id)}`);
  }
  return encodeURIComponent(id);
}

module.exports = { Connection, segment };
