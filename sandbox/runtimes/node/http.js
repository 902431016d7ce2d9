'use strict';
// sdk.http: requests that follow redirects and have bounds. They leave through the egress proxy, which checks every
// connection, those of redirects included.

const check = require('./arguments.js');

const { stringify, parse } = JSON;
const DEFAULT_TIMEOUT_MS = 10_000;
const MAX_TIMEOUT_MS = 900_000;
const MAX_REDIRECTS = 10;
const MAX_BYTES = 10 * 1024 * 1024;
const OPTIONS = ['headers', 'query', 'timeout'];
const OWN_HEADERS = new Set(['host', 'connection', 'content-length', 'transfer-encoding', 'upgrade', 'te', 'trailer']);
const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const HEADER_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const BODILESS = new Set(['GET', 'DELETE']);
const CREDENTIALS = ['authorization', 'cookie', 'proxy-authorization'];
const SSRF_KINDS = new Set(['address', 'bad_host']); // of sandbox/egress/policy.py; another spelling of an address is no good host
const start = setTimeout;
const stop = clearTimeout;

function failure(message, code) {
  return Object.assign(new Error(message), { code });
}

function urlOf(label, value, query) {
  if (!(value instanceof URL)) check.text(label, 'url', value);
  if (!URL.canParse(value)) throw new TypeError(`${label}: url is no address that begins with http:// or https://`);
  const url = new URL(value);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new TypeError(`${label}: url begins with ${url.protocol}, but must begin with http:// or https://`);
  }
  if (url.username !== '' || url.password !== '') {
    throw new TypeError(`${label}: url must not have a user name in it; send the header authorization`);
  }
  if (query === undefined) return url;
  check.plain(label, 'query', query);
  const added = new URLSearchParams();
  for (const [name, given] of Object.entries(query)) {
    for (const each of [given].flat()) {
      if (each === null || each === undefined) continue;
      if (!['string', 'number', 'boolean', 'bigint'].includes(typeof each)) throw check.wrong(label, `query.${name}`, 'a string or a number', each);
      added.append(name, String(each));
    }
  }
  // Not url.searchParams, which would write anew what is there: an address that is signed must stay as it is.
  if (added.size > 0) url.search += `${url.search === '' ? '?' : '&'}${added}`;
  return url;
}

function headersOf(label, given = {}) {
  check.plain(label, 'headers', given);
  const headers = { __proto__: null };
  for (const [name, value] of Object.entries(given)) {
    const lower = name.toLowerCase();
    if (value === undefined || value === null) continue;
    if (!HEADER_NAME.test(name)) throw new TypeError(`${label}: a header's name has a character that is not allowed`);
    if (OWN_HEADERS.has(lower)) throw new TypeError(`${label}: the header ${lower} is set by the platform`);
    if (typeof value !== 'string' && typeof value !== 'number') throw check.wrong(label, `headers.${lower}`, 'a string', value);
    if (!HEADER_VALUE.test(String(value))) throw new TypeError(`${label}: the header ${lower} has a character that is not allowed`);
    headers[lower] = String(value);
  }
  return headers;
}

/** The bytes of a body and the content type that goes with them. */
function bodyOf(label, body) {
  if (body === undefined || body === null) return [null, null];
  if (typeof body === 'string') return [Buffer.from(body), 'text/plain;charset=utf-8'];
  if (ArrayBuffer.isView(body)) return [Buffer.from(body.buffer, body.byteOffset, body.byteLength), 'application/octet-stream'];
  if (body instanceof ArrayBuffer) return [Buffer.from(body), 'application/octet-stream'];
  if (body instanceof URLSearchParams) return [Buffer.from(body.toString()), 'application/x-www-form-urlencoded;charset=utf-8'];
  let text;
  try {
    text = stringify(body);
  } catch (error) {
    throw new TypeError(`${label}: the body is not JSON: ${error.message}`);
  }
  if (text === undefined) throw check.wrong(label, 'body', 'a string, bytes or a JSON value', body);
  return [Buffer.from(text), 'application/json'];
}

function prepare(label, method, address, body, given) {
  const options = check.options(label, given, OPTIONS);
  const url = urlOf(label, address, options.query ?? undefined);
  const [data, contentType] = bodyOf(label, body);
  const headers = headersOf(label, options.headers ?? undefined);
  headers['user-agent'] ??= 'millrace-sdk';
  headers.accept ??= 'application/json, */*;q=0.9';
  headers['accept-encoding'] ??= 'gzip, deflate, br';
  if (contentType !== null) headers['content-type'] ??= contentType;
  const timeout = check.integer(label, 'timeout', options.timeout ?? DEFAULT_TIMEOUT_MS, 1, MAX_TIMEOUT_MS);
  return { label, method, url, headers, data, timeout };
}

/** One request to one address. `exchange` is told what to end when the time is up. */
function send({ label, method, url, headers, data }, exchange) {
  const { request } = require(url.protocol === 'https:' ? 'https' : 'http');
  const length = data !== null || !BODILESS.has(method) ? { 'content-length': data?.length ?? 0 } : {};
  return new Promise((resolve, reject) => {
    const sent = request(url, { method, headers: { ...headers, ...length } });
    exchange.request = sent;
    sent.on('error', reject);
    sent.once('response', (response) => {
      response.on('error', reject);
      if (isRedirect(response)) {
        resolve({ response, data: null });
        response.destroy();
        return;
      }
      const chunks = [];
      let size = 0;
      response.on('data', (chunk) => {
        size += chunk.length;
        chunks.push(chunk);
        if (size > MAX_BYTES) response.destroy(tooLarge(label));
      });
      response.once('end', () => resolve({ response, data: Buffer.concat(chunks) }));
    });
    sent.end(data ?? undefined);
  });
}

function tooLarge(label) {
  return failure(`${label}: the response is larger than the limit of ${MAX_BYTES / 1024 / 1024} MB`, 'RESPONSE_TOO_LARGE');
}

function isRedirect(response) {
  return [301, 302, 303, 307, 308].includes(response.statusCode) && response.headers.location !== undefined;
}

/** The request that a redirect asks for. */
function redirected(wanted, response) {
  const { label, url } = wanted;
  const where = Buffer.from(response.headers.location, 'latin1').toString();
  if (!URL.canParse(where, url)) throw failure(`${label}: the server redirects to no address`, 'BAD_REDIRECT');
  const next = { ...wanted, url: new URL(where, url), headers: { __proto__: null, ...wanted.headers } };
  next.url.username = next.url.password = '';
  if (next.url.protocol !== 'http:' && next.url.protocol !== 'https:') {
    throw failure(`${label}: the server redirects to ${next.url.protocol}, but only http: and https: are allowed`, 'BAD_REDIRECT');
  }
  if (next.url.origin !== url.origin) for (const name of CREDENTIALS) delete next.headers[name];
  const { statusCode } = response;
  if ((statusCode === 303 && next.method !== 'GET') || (statusCode <= 302 && next.method === 'POST')) {
    next.method = 'GET';
    next.data = null;
    delete next.headers['content-type'];
  }
  return next;
}

async function follow(wanted, exchange) {
  let next = wanted;
  for (let redirects = 0; ; redirects += 1) {
    const { response, data } = await send(next, exchange);
    if (data !== null) return answerOf(wanted.label, response, data);
    if (redirects === MAX_REDIRECTS) throw failure(`${wanted.label}: the server redirects more than ${MAX_REDIRECTS} times`, 'TOO_MANY_REDIRECTS');
    next = redirected(next, response);
    if (exchange.isLate) throw new Error('nobody waits for it any more');
  }
}

function unpacked(label, encoding, data) {
  const { brotliDecompressSync, unzipSync } = require('zlib');
  const unpack = encoding === 'br' ? brotliDecompressSync : unzipSync;
  try {
    return unpack(data, { maxOutputLength: MAX_BYTES });
  } catch (error) {
    if (error.code === 'ERR_BUFFER_TOO_LARGE') throw tooLarge(label);
    throw failure(`${label}: the response's ${encoding} data is damaged`, 'BAD_RESPONSE');
  }
}

function textOf(data, contentType) {
  const charset = /;\s*charset="?([^\s;"]+)/i.exec(contentType)?.[1] ?? 'utf-8';
  try {
    return new TextDecoder(charset).decode(data);
  } catch {
    return new TextDecoder().decode(data); // a character set that nobody knows
  }
}

function answerOf(label, response, received) {
  const headers = { ...response.headers };
  const encoding = headers['content-encoding']?.trim().toLowerCase();
  const isPacked = ['gzip', 'x-gzip', 'deflate', 'br'].includes(encoding) && received.length > 0;
  const data = isPacked ? unpacked(label, encoding, received) : received;
  const contentType = headers['content-type'] ?? '';
  const text = textOf(data, contentType);
  let body = text;
  if (/^\s*[^\s;]*[/+]json\s*(?:;|$)/i.test(contentType)) {
    try {
      body = parse(text);
    } catch {
      // It is not what it says, and so it stays the text that it is.
    }
  }
  return { status: response.statusCode, headers, body };
}

function explained(label, error) {
  if (error.code === 'EGRESS_REFUSED' && SSRF_KINDS.has(error.kind)) {
    return failure(`SSRF protection: ${error.hostname}:${error.port} was refused: ${error.reason}`, 'SSRF_BLOCKED');
  }
  return failure(error.message.startsWith(label) ? error.message : `${label}: ${error.message}`, error.code);
}

async function exchangeOf(wanted) {
  const exchange = { request: null, isLate: false };
  let timer;
  const late = new Promise((resolve, reject) => {
    timer = start(() => {
      exchange.isLate = true;
      reject(failure(`${wanted.label}: the request took longer than its timeout of ${wanted.timeout} ms`, 'TIMEOUT'));
      exchange.request.destroy();
    }, wanted.timeout);
  });
  try {
    return await Promise.race([follow(wanted, exchange), late]);
  } catch (error) {
    // Made anew here, where the script's own lines are on the stack.
    throw explained(wanted.label, error);
  } finally {
    stop(timer);
  }
}

/** `ask` is of sdk.js: the platform counts requests, and refuses one too many. */
function create(ask) {
  async function request(name, url, body, options) {
    const label = `sdk.http.${name}`;
    const wanted = prepare(label, name.toUpperCase(), url, body, options);
    await ask('http.begin', {}, label);
    return await exchangeOf(wanted);
  }
  return {
    get: async (url, options) => await request('get', url, null, options),
    post: async (url, body, options) => await request('post', url, body, options),
    put: async (url, body, options) => await request('put', url, body, options),
    delete: async (url, options) => await request('delete', url, null, options),
    patch: async (url, body, options) => await request('patch', url, body, options),
  };
}

module.exports = { create };
