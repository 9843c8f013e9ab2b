// The official CometD server for Node.js, made to look like a Salesforce org: a token endpoint, /cometd/{version}, stored
// events that a subscription can replay. What Bayeux says and does is cometd-nodejs-server's, never ours.
//
// Ours is only what stands round it: the replay extension, the store that it reads, and /control/…, by which a test
// publishes, breaks answers and looks inside. server.py starts this program and documents it for tests.

import crypto from "node:crypto";
import http from "node:http";
import { parseArgs } from "node:util";
import cometd from "cometd-nodejs-server";

const { values: argument } = parseArgs({
  options: {
    timeout: { type: "string", default: "110000" }, // ms that a poll is held
    "max-interval": { type: "string", default: "40000" }, // ms between two polls before the session expires
    "sweep-period": { type: "string", default: "100" }, // ms between two looks for expired sessions
    "open": { type: "boolean", default: false }, // let in whoever comes, without a token
    "connect-only": { type: "boolean", default: false }, // events ride on /meta/connect answers alone
  },
});

const ORG_ID = "00DCOMETD00001EAA";
const USER_ID = "005COMETD00001EAA";

// --- the store: what was published, in order --------------------------------------------------------------------------

const ledger = new Map(); // channel -> [{ replayId, text, purged }]
const textOfData = new WeakMap(); // the data object handed to CometD -> the message's exact text
let lastReplayId = 6000;

function stored(channel) {
  if (!ledger.has(channel)) ledger.set(channel, []);
  return ledger.get(channel);
}

function store(channel, payload, schema) {
  lastReplayId += 1 + (lastReplayId % 3); // sparse, as Salesforce's are
  const payloadText = typeof payload === "string" ? payload : JSON.stringify(payload);
  const dataText = `{"schema":${JSON.stringify(schema)},"payload":${payloadText},"event":{"replayId":${lastReplayId}}}`;
  const event = { replayId: lastReplayId, text: `{"data":${dataText},"channel":${JSON.stringify(channel)}}`, purged: false };
  stored(channel).push(event);
  return event;
}

function dataOf(event) {
  const data = { event: { replayId: event.replayId } };
  textOfData.set(data, event.text);
  return data;
}

// --- the replay extension ---------------------------------------------------------------------------------------------

const bayeux = cometd.createCometDServer({
  timeout: Number(argument.timeout),
  maxInterval: Number(argument["max-interval"]),
  sweepPeriod: Number(argument["sweep-period"]),
});

const refusals = new WeakMap(); // a reply that will fail -> { error, failureReason }
const refusedChannels = new Map(); // channel -> the error that a test wants
const sessions = new Map(); // clientId -> what /control/state tells about it
const requests = []; // every Bayeux message that came in, in order

function refusalOfReplay(channel, replay) {
  if (replay === undefined) return null;
  const asked = replay[channel];
  if (asked === undefined) {
    return (
      `400::The replayId for channel {${channel}} wasn't found using the provided replay ID map {${JSON.stringify(replay)}}. ` +
      "Ensure that the channel name you provided in the replay map is valid and matches the channel name used for subscribing."
    );
  }
  const id = Number(asked);
  const known = id === -1 || id === -2 || stored(channel).some((event) => event.replayId === id && !event.purged);
  if (known) return null;
  return (
    `400::The replayId {${asked}} you provided was invalid. ` +
    "Please provide a valid ID, -2 to replay all events, or -1 to replay only new events."
  );
}

bayeux.policy = {
  canHandshake(session, message, callback) {
    if (argument.open || tokens.has(tokenOf(bayeux.context.request))) return callback(undefined, true);
    refusals.set(message.reply, { failureReason: "401::Authentication invalid" });
    return callback(undefined, false);
  },
  canSubscribe(session, message, channel, callback) {
    const replay = (message.ext || {}).replay;
    const error = refusedChannels.get(channel.name) ?? refusalOfReplay(channel.name, replay);
    if (error) refusals.set(message.reply, { error });
    callback(undefined, !error);
  },
  canPublish: (session, message, channel, callback) => callback(undefined, false),
};

bayeux.addExtension({
  incoming(server, session, message, callback) {
    const { channel, clientId, subscription, advice, ext } = message;
    requests.push({ channel, clientId, subscription, advice, ext });
    callback(undefined, true);
  },
  outgoing(server, sender, session, message, callback) {
    const text = textOfData.get(message.data);
    // CometD sends `_json` where a message has it: so bytes go out as they were published, whatever JSON.parse thinks of them.
    if (text !== undefined && message._json === undefined) Object.defineProperty(message, "_json", { value: text });
    if (message.channel === "/meta/handshake") message.ext = { ...message.ext, replay: true, "payload.format": true };
    const refusal = refusals.get(message);
    if (refusal?.error) message.error = refusal.error;
    if (refusal?.failureReason) message.ext = { ...message.ext, sfdc: { failureReason: refusal.failureReason } };
    callback(undefined, true);
  },
});

bayeux.addListener("subscribed", (channel, session, message) => {
  const asked = Number((message.ext?.replay ?? {})[channel.name] ?? -1);
  if (asked === -1) return;
  const events = stored(channel.name);
  const first = asked === -2 ? 0 : events.findIndex((event) => event.replayId === asked) + 1;
  for (const event of events.slice(first)) {
    if (!event.purged) session.deliver(null, channel.name, dataOf(event));
  }
});

bayeux.addListener("sessionAdded", (session) => {
  const entry = { clientId: session.id, alive: true, ended: null, polling: false, subscriptions: [] };
  sessions.set(session.id, entry);
  if (argument["connect-only"]) session._metaConnectDeliveryOnly = true;
  session.addListener("suspended", () => (entry.polling = true));
  session.addListener("resumed", () => (entry.polling = false));
});
bayeux.addListener("sessionRemoved", (session, timedOut) => {
  const entry = sessions.get(session.id);
  Object.assign(entry, { alive: false, ended: timedOut ? "timeout" : "disconnect" });
  entry.subscriptions = session.subscriptions.map((channel) => channel.name);
});

function aliveSessions(clientId) {
  const alive = [...sessions.values()].filter((entry) => entry.alive && (clientId === undefined || entry.clientId === clientId));
  return alive.map((entry) => bayeux.getServerSession(entry.clientId));
}

// --- the token endpoint -----------------------------------------------------------------------------------------------

const tokens = new Set();
const revokedTokens = new Set();
let tokensIssued = 0;

function tokenOf(request) {
  return /^(?:Bearer|OAuth) (.+)$/.exec(request.headers.authorization ?? "")?.[1];
}

function answerToken(form, response) {
  const grant = form.get("grant_type");
  if (!["client_credentials", "urn:ietf:params:oauth:grant-type:jwt-bearer"].includes(grant)) {
    return answerJson(response, 400, { error: "unsupported_grant_type", error_description: "grant type not supported" });
  }
  const token = `${ORG_ID.slice(0, 15)}!${crypto.randomBytes(32).toString("hex")}`;
  tokens.add(token);
  tokensIssued += 1;
  return answerJson(response, 200, {
    access_token: token,
    signature: crypto.randomBytes(32).toString("base64"),
    token_format: "opaque",
    scope: "api",
    instance_url: url,
    id: `${url}/id/${ORG_ID}/${USER_ID}`,
    token_type: "Bearer",
    issued_at: String(Date.now()),
  });
}

// --- faults: what happens to the next answer that carries events --------------------------------------------------------

const faults = []; // { how, on } waiting for their answer

function carriesEvents(content) {
  return typeof content === "string" && JSON.parse(content).some((message) => !message.channel.startsWith("/meta/"));
}

function breakAnswer(response, content, how) {
  const body = Buffer.from(content, "utf8");
  if (how === "unavailable" || how === "html") {
    response.statusCode = how === "html" ? 200 : 503;
    response.setHeader("Content-Type", "text/html");
    return response._end("<html><body>Down for maintenance</body></html>", "utf8");
  }
  if (how === "truncate") {
    response.setHeader("Content-Length", body.length);
    response.write(body.subarray(0, body.length >> 1), () => response.socket?.destroy());
  } else {
    response.socket?.destroy();
  }
  // Tells CometD that its answer is done with, as a write into a dead socket would: the session's expiry clock starts.
  return response.emit("error", new Error(`answer dropped: ${how}`));
}

function armFaults(response) {
  response._end = response.end.bind(response);
  response.end = (content, ...rest) => {
    const armed = faults[0];
    if (armed === undefined || content === undefined || !(armed.on === "any" || carriesEvents(content))) {
      return response._end(content, ...rest);
    }
    faults.shift();
    return breakAnswer(response, content, armed.how);
  };
}

// --- control ------------------------------------------------------------------------------------------------------------

const control = {
  publish({ channel, payloads, schema = "conformance", quiet = false }) {
    return payloads.map((payload) => {
      const event = store(channel, payload, schema);
      if (!quiet) bayeux.createServerChannel(channel).publish(null, dataOf(event));
      return event.replayId;
    });
  },
  purge({ channel, upTo }) {
    for (const event of stored(channel)) event.purged ||= event.replayId <= upTo;
    return null;
  },
  refuse({ channel, error }) {
    if (error === null) refusedChannels.delete(channel);
    else refusedChannels.set(channel, error);
    return null;
  },
  fault({ how, on }) {
    faults.push({ how, on });
    return null;
  },
  expire({ clientId, tell }) {
    const ended = aliveSessions(clientId);
    for (const session of ended) {
      if (tell) {
        session.disconnect();
      } else {
        bayeux._removeServerSession(session, true);
        session._flush();
      }
    }
    return ended.map((session) => session.id);
  },
  revoke() {
    for (const token of tokens) revokedTokens.add(token);
    tokens.clear();
    return null;
  },
  ledger: ({ channel }) => stored(channel).filter((event) => !event.purged),
  requests: () => requests,
  state: () => ({
    sessions: [...sessions.values()].map((entry) => {
      const live = bayeux.getServerSession(entry.clientId);
      return live ? { ...entry, subscriptions: live.subscriptions.map((channel) => channel.name) } : entry;
    }),
    tokensIssued,
    faultsPending: faults.length,
  }),
};

// --- HTTP ---------------------------------------------------------------------------------------------------------------

function answerJson(response, status, value) {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(JSON.stringify(value));
}

async function bodyOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8");
}

async function handle(request, response) {
  const path = new URL(request.url, url).pathname;
  if (/^\/cometd\/\d+\.\d+(\/.*)?$/.test(path)) {
    // A revoked token gets a bare 401; a handshake without a token gets Bayeux's words, in canHandshake.
    if (revokedTokens.has(tokenOf(request))) return answerJson(response, 401, []);
    armFaults(response);
    return bayeux.handle(request, response);
  }
  if (path === "/services/oauth2/token" && request.method === "POST") {
    return answerToken(new URLSearchParams(await bodyOf(request)), response);
  }
  const verb = /^\/control\/([a-z]+)$/.exec(path)?.[1];
  if (verb !== undefined && Object.hasOwn(control, verb) && request.method === "POST") {
    return answerJson(response, 200, control[verb](JSON.parse((await bodyOf(request)) || "{}")));
  }
  return answerJson(response, 404, [{ errorCode: "NOT_FOUND", message: "The requested resource does not exist" }]);
}

let url;
const server = http.createServer((request, response) => {
  handle(request, response).catch((error) => {
    if (!response.headersSent) answerJson(response, 500, { error: String(error) });
  });
});
server.timeout = 0; // CometD's own timeout holds the polls
server.listen(0, "127.0.0.1", () => {
  url = `http://127.0.0.1:${server.address().port}`;
  process.stdout.write(`${JSON.stringify({ url })}\n`);
});

// Whoever started this program holds its standard input; when that closes, nobody is left to serve.
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
