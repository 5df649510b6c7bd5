// Loaded into NNI's manager before its own code (node --require) where trials run on other machines. NNI 3.0 would have
// them connect to a port of this one that it leaves open to all, and installs itself anew there. Here they connect
// through NNI's own SSH connection: a socket there, which only its user may open, leads to the manager on 127.0.0.1.
'use strict';
const crypto = require('crypto');
const Module = require('module');
const net = require('net');

const INSTALL = '-m pip install nni --upgrade';
const LAUNCH = '-m nni.tools.nni_manager_scripts.launch_trial_keeper';
const KEEPER = '-m autoprune.nni.remote.keeper';
const port = Number(process.env.AUTOPRUNE_NNI_PORT);
const host = process.env.AUTOPRUNE_NNI_HOST || '127.0.0.1';
const data = JSON.parse(process.env.AUTOPRUNE_NNI_DATA || '{}'); // by machine

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function lead(client, path, then) {
    client.on('unix connection', (info, accept) => {
        const there = accept();
        const here = net.connect(port, host);
        for (const [from, to] of [[there, here], [here, there]]) {
            from.on('error', () => to.destroy());
            from.on('close', () => to.destroy());
            from.pipe(to);
        }
    });
    client.on('error', () => client.end()); // unheard it would end NNI, which else connects anew
    client.openssh_forwardInStreamLocal(path, then);
}

function adapt(Client) {
    const exec = Client.prototype.exec;
    Client.prototype.exec = function (command, ...rest) {
        if (command.includes(INSTALL)) {
            return exec.call(this, command.replace(INSTALL, KEEPER), ...rest);
        }
        if (!command.includes(LAUNCH)) {
            return exec.call(this, command, ...rest);
        }
        const path = `/tmp/autoprune-nni-${crypto.randomBytes(16).toString('hex')}`;
        const own = data[`${this.config.username}@${this.config.host}:${this.config.port}`];
        lead(this, path, (error) => {
            if (error) {
                rest[rest.length - 1](new Error(`its SSH server forwards no sockets (AllowStreamLocalForwarding): ${error.message}`));
            } else {
                const more = own === undefined ? '' : ` ${quoted(own)}`;
                exec.call(this, `${command.replace(LAUNCH, KEEPER)} ${path}${more}`, ...rest);
            }
        });
        return this;
    };
    return Client;
}

const load = Module._load;
let isAdapted = false;
Module._load = function (request, ...rest) {
    const loaded = load.call(this, request, ...rest);
    if (request === 'ssh2' && !isAdapted) {
        isAdapted = true;
        adapt(loaded.Client);
    }
    return loaded;
};
