"""The queue's own script in Redis: what Dramatiq's broker asks for, but fair between workspaces and safe to send again.

Workspaces share the workers by worker-seconds: whoever fetches gets the oldest message of the workspace that has used
least of late (halved each minute), what it has running counted in. One that has ten thousand long runs waiting delays
another's single run by no more than the wait for a worker to be free.

A message is known by its run and attempt: one that waits or is being carried is not queued twice, however often it is
sent. One that a worker has had for `RETAKE_MS` and that is sent again goes to another: its worker may never have heard
that it fetched it, and whoever claims the run first has it. What a dead worker had fetched goes back to the front of
its line, within two seconds after the worker counts as dead. A message that was fetched three times and never
acknowledged has killed three workers: it goes to `poison`.

Time is Redis's own, so that hosts whose clocks differ agree on who is alive.
"""

MAX_DELIVERIES = 3
RETAKE_MS = 10_000
"""Less than the time after which the sweeper sends what nobody has claimed."""
_SAMPLE = 64
"""Workspaces that are compared for one fetch: more would keep Redis from its other work."""
_HALF_LIFE_MS = 60_000
_TIDY_EVERY_MS = 1_000

# Keys, all below the queue's name `q`:
#   q:waiting        set of workspaces that have a message waiting
#   q:line:<ws>      list of their ids, oldest first
#   q.msgs           hash id -> message
#   q:began, q:holder   hashes id -> when it was fetched and by whom, while a worker has it
#   q:deliveries     hash id -> how often it was fetched
#   q:busy, q:since  hashes ws -> how many it has with workers, and the sum of when they were fetched
#   q:used, q:used_at   hashes ws -> worker-milliseconds, as of a moment
#   q:poison         list of ids
# and as Dramatiq has them: __heartbeats__, and __acks__.<worker>.<queue> with the ids that a worker has.
SCRIPT = b"""
local namespace, command, name, worker, timeout = KEYS[1], ARGV[1], ARGV[3], ARGV[4], tonumber(ARGV[5])
local clock = redis.call("time")
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local q = namespace .. ":" .. name
local heartbeats = namespace .. ":__heartbeats__"
redis.call("zadd", heartbeats, now, worker)
-- Nothing is delayed in Redis; whoever looks there is alive.
if string.sub(name, -3) == ".DQ" then return command == "fetch" and {} or 0 end

local function acks_of(each) return namespace .. ":__acks__." .. each .. "." .. name end
local function workspace_of(id) return string.match(id, "^([^/]*)/") or "" end
local function number(key, field) return tonumber(redis.call("hget", key, field) or "0") end

local function used(workspace)
    local amount = number(q .. ":used", workspace)
    if amount == 0 then return 0 end
    return amount * 2 ^ (-(now - number(q .. ":used_at", workspace)) / HALF_LIFE)
end

local function charge(workspace, amount)
    local sum = used(workspace) + amount
    if sum < 1 then
        redis.call("hdel", q .. ":used", workspace)
        redis.call("hdel", q .. ":used_at", workspace)
    else
        redis.call("hset", q .. ":used", workspace, sum)
        redis.call("hset", q .. ":used_at", workspace, now)
    end
end

local function line_up(id, front)
    local workspace = workspace_of(id)
    if redis.call("exists", q .. ":waiting") == 0 then
        redis.call("publish", namespace .. ":wake:" .. name, "1")
    end
    redis.call("sadd", q .. ":waiting", workspace)
    redis.call(front and "lpush" or "rpush", q .. ":line:" .. workspace, id)
end

local function begin(id)
    local workspace = workspace_of(id)
    redis.call("sadd", acks_of(worker), id)
    redis.call("hset", q .. ":began", id, now)
    redis.call("hset", q .. ":holder", id, worker)
    redis.call("hincrby", q .. ":deliveries", id, 1)
    redis.call("hincrby", q .. ":busy", workspace, 1)
    redis.call("hincrby", q .. ":since", workspace, now)
end

local function give_up(id)
    local workspace, began = workspace_of(id), tonumber(redis.call("hget", q .. ":began", id) or now)
    redis.call("hdel", q .. ":began", id)
    redis.call("hdel", q .. ":holder", id)
    if redis.call("hincrby", q .. ":busy", workspace, -1) <= 0 then
        redis.call("hdel", q .. ":busy", workspace)
        redis.call("hdel", q .. ":since", workspace)
    else
        redis.call("hincrby", q .. ":since", workspace, -began)
    end
    charge(workspace, now - began)
end

local function forget(id)
    redis.call("hdel", q .. ".msgs", id)
    redis.call("hdel", q .. ":deliveries", id)
end

local function put_back(id)
    give_up(id)
    if number(q .. ":deliveries", id) >= MAX_DELIVERIES then
        forget(id)
        redis.call("rpush", q .. ":poison", id)
    else
        line_up(id, true)
    end
end

local function tidy()
    if not redis.call("set", q .. ":tidied", now, "px", TIDY_EVERY, "nx") then return end
    for _, each in ipairs(redis.call("zrangebyscore", heartbeats, 0, now - timeout)) do
        for _, id in ipairs(redis.call("smembers", acks_of(each))) do put_back(id) end
        redis.call("del", acks_of(each))
        redis.call("zrem", heartbeats, each)
    end
end

local function next_workspace()
    local best, least
    for _, workspace in ipairs(redis.call("srandmember", q .. ":waiting", SAMPLE)) do
        local busy = number(q .. ":busy", workspace)
        -- A millisecond for each that has just begun, so that what is fetched at once is shared too.
        local cost = used(workspace) + busy * (now + 1) - number(q .. ":since", workspace)
        if not least or cost < least then best, least = workspace, cost end
    end
    return best
end

local function fetch(most)
    local messages = {}
    while #messages < most do
        local workspace = next_workspace()
        if not workspace then break end
        local line = q .. ":line:" .. workspace
        local id = redis.call("lpop", line)
        if redis.call("exists", line) == 0 then redis.call("srem", q .. ":waiting", workspace) end
        local message = id and redis.call("hget", q .. ".msgs", id)
        if message then
            begin(id)
            messages[#messages + 1] = message
        end
    end
    return messages
end

if command == "enqueue" then
    local began = redis.call("hget", q .. ":began", ARGV[9])
    if redis.call("hsetnx", q .. ".msgs", ARGV[9], ARGV[10]) == 1 then
        line_up(ARGV[9], false)
    elseif began and now - began > RETAKE then
        redis.call("srem", acks_of(redis.call("hget", q .. ":holder", ARGV[9])), ARGV[9])
        redis.call("hincrby", q .. ":deliveries", ARGV[9], -1)
        give_up(ARGV[9])
        line_up(ARGV[9], true)
    end
elseif command == "fetch" then
    tidy()
    return fetch(tonumber(ARGV[9]))
elseif command == "ack" or command == "nack" then
    -- One that was given to another worker meanwhile is that one's.
    if redis.call("srem", acks_of(worker), ARGV[9]) == 1 then
        give_up(ARGV[9])
        forget(ARGV[9])
    end
elseif command == "requeue" then
    for each = #ARGV, 9, -1 do
        if redis.call("srem", acks_of(worker), ARGV[each]) == 1 then
            redis.call("hincrby", q .. ":deliveries", ARGV[each], -1)  -- it was given back, and killed nobody
            put_back(ARGV[each])
        end
    end
elseif command == "qsize" then
    return redis.call("hlen", q .. ".msgs")
elseif command == "depth" then
    return redis.call("hlen", q .. ".msgs") - redis.call("hlen", q .. ":began")
elseif command == "poisoned" then
    return redis.call("lrange", q .. ":poison", 0, ARGV[9] - 1)
elseif command == "bury" then
    redis.call("lrem", q .. ":poison", 0, ARGV[9])
elseif command == "purge" then
    for _, workspace in ipairs(redis.call("smembers", q .. ":waiting")) do
        redis.call("del", q .. ":line:" .. workspace)
    end
    redis.call("del", q .. ".msgs", q .. ":waiting", q .. ":began", q .. ":deliveries", q .. ":busy", q .. ":since",
        q .. ":used", q .. ":used_at", q .. ":poison", q .. ":holder", acks_of(worker))
end
"""
for _name, _value in (
    (b"HALF_LIFE", _HALF_LIFE_MS), (b"MAX_DELIVERIES", MAX_DELIVERIES), (b"TIDY_EVERY", _TIDY_EVERY_MS),
    (b"SAMPLE", _SAMPLE), (b"RETAKE", RETAKE_MS),
):  # fmt: skip
    SCRIPT = SCRIPT.replace(_name, str(_value).encode())
