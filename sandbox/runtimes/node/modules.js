'use strict';
// What a script's require() gives: its own files, the installed libraries, and Node modules that reach neither
// processes, files nor raw sockets. This is for good messages; the jail holds without it.

const vm = require('node:vm');
const { builtinModules } = require('node:module');
const { posix } = require('node:path');

const { compileFunction } = vm;
const { parse } = JSON;
const native = require;

const LIBRARIES = ['axios', 'dayjs', 'lodash', 'node-fetch', 'smartsuite-sdk', 'uuid'];
const BUILTINS = new Set([
  'assert', 'assert/strict', 'async_hooks', 'buffer', 'console', 'constants', 'crypto', 'diagnostics_channel', 'events',
  'http', 'https', 'os', 'path', 'path/posix', 'perf_hooks', 'punycode', 'querystring', 'stream', 'stream/consumers',
  'stream/promises', 'stream/web', 'string_decoder', 'timers', 'timers/promises', 'url', 'util', 'util/types', 'zlib',
]);
const KNOWN_BUILTINS = new Set(builtinModules);
const HOME = '/script/';

function refuse(message, code) {
  const error = new Error(message);
  error.code = code;
  return error;
}

function library(name) {
  return LIBRARIES.find((known) => name === known || name.startsWith(`${known}/`));
}

function loadLibrary(name) {
  try {
    return native(name);
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND' && error.code !== 'ERR_PACKAGE_PATH_NOT_EXPORTED') throw error;
    throw refuse(`Cannot find module '${name}': the library ${library(name)} has no such file`, 'MODULE_NOT_FOUND');
  }
}

function builtin(name) {
  const found = native(name);
  // It would ask the kernel by a kind of socket that a jail has not.
  if (name === 'os') found.networkInterfaces = () => ({});
  return found;
}

function external(name) {
  const bare = name.startsWith('node:') ? name.slice(5) : name;
  if (BUILTINS.has(bare)) return builtin(bare);
  if (KNOWN_BUILTINS.has(bare) || name !== bare) {
    throw refuse(`Module '${name}' is not available to scripts`, 'ERR_ACCESS_DENIED');
  }
  if (library(name)) return loadLibrary(name);
  throw refuse(
    `Cannot find module '${name}'. Scripts can require their own files, ${LIBRARIES.join(', ')}, ` +
      `and Node's ${[...BUILTINS].filter((known) => !known.includes('/')).join(', ')}`,
    'MODULE_NOT_FOUND',
  );
}

/** `files` is a Map of relative path to Buffer. The result's `load(path)` runs a file once and returns its exports. */
function createLoader(files) {
  const cache = new Map();

  function find(name, from) {
    const path = posix.join(posix.dirname(from), name.startsWith(HOME) ? name.slice(HOME.length) : name);
    const base = name.startsWith(HOME) ? posix.normalize(name.slice(HOME.length)) : path;
    const tries = [base, `${base}.js`, `${base}.cjs`, `${base}.json`, posix.join(base, 'index.js')];
    const found = tries.find((candidate) => files.has(candidate));
    if (found === undefined) throw refuse(`Cannot find module '${name}' beside ${from}`, 'MODULE_NOT_FOUND');
    return found;
  }

  function requireFrom(from, main) {
    const isOwn = (name) => /^\.{1,2}(\/|$)/.test(name) || name.startsWith(HOME);
    function require(name) {
      if (typeof name !== 'string' || name === '') {
        throw new TypeError('require() takes the name of a module, a string that is not empty');
      }
      return isOwn(name) ? load(find(name, from)) : external(name);
    }
    require.resolve = (name) => (isOwn(name) ? HOME + find(name, from) : name);
    require.main = main;
    return require;
  }

  function load(path) {
    const known = cache.get(path);
    if (known) return known.exports;
    const module = { id: path, filename: HOME + path, loaded: false, exports: {}, children: [], paths: [] };
    cache.set(path, module);
    try {
      evaluate(path, module);
    } catch (error) {
      cache.delete(path);
      throw error;
    }
    module.loaded = true;
    return module.exports;
  }

  function evaluate(path, module) {
    let text = files.get(path).toString('utf8');
    if (text.charCodeAt(0) === 0xfeff) text = text.slice(1);
    if (path.endsWith('.json')) {
      module.exports = parse(text);
      return;
    }
    // Not Module.wrap: compiled this way lines and columns stay those of the file. import() is refused by Node itself.
    const body = compileFunction(text, ['exports', 'require', 'module', '__filename', '__dirname'], {
      filename: path,
    });
    const require = requireFrom(path, module);
    module.require = require;
    Reflect.apply(body, module.exports, [module.exports, require, module, module.filename, posix.dirname(module.filename)]);
  }

  return { load };
}

module.exports = { createLoader, external };
