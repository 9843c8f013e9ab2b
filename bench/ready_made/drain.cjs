// Polls with the CometD project's own Node client and stores nothing; prints the same JSON line as the other contenders.
'use strict';
const {resolve} = require('node:path');
const {pathToFileURL} = require('node:url');
const fs = require('node:fs');

// Found below NODE_PATH: import() does not look there by itself.
const load = name => {
    const folder = resolve(process.env.NODE_PATH, name);
    return import(pathToFileURL(resolve(folder, JSON.parse(fs.readFileSync(resolve(folder, 'package.json'))).main)));
};

async function main() {
    const task = JSON.parse(process.argv[2]);
    const {adapt} = await load('cometd-nodejs-client');
    adapt();
    const {CometD} = await load('cometd');
    const form = new URLSearchParams({grant_type: 'client_credentials', client_id: task.client_id,
        client_secret: task.client_secret});
    const token = await (await fetch(`${task.org_url}/services/oauth2/token`, {method: 'POST', body: form})).json();
    const cometd = new CometD();
    cometd.configure({url: `${task.org_url}/cometd/66.0`, appendMessageTypeToURL: false, logLevel: 'error',
        requestHeaders: {Authorization: `Bearer ${token.access_token}`}});
    cometd.unregisterTransport('websocket');
    let count = 0, began = 0, cpu = 0;
    const cpuSeconds = () => { const used = process.cpuUsage(); return (used.user + used.system) / 1e6; };
    const done = () => {
        const seconds = performance.now() / 1000 - began;
        const peak = /VmHWM:\s+(\d+)/.exec(fs.readFileSync('/proc/self/status', 'ascii'))[1] / 1024;
        console.log(JSON.stringify({seconds, cpu_s: cpuSeconds() - cpu, peak_mb: peak, requests: {}, events: count}));
        process.exit(0);
    };
    cometd.handshake(reply => {
        if (!reply.successful) {
            console.error(JSON.stringify(reply));
            process.exit(1);
        }
        began = performance.now() / 1000;
        cpu = cpuSeconds();
        for (const channel of task.channels) {
            cometd.subscribe(channel, () => { if (++count === task.events) done(); }, {ext: {replay: {[channel]: -2}}});
        }
    });
}

main();
