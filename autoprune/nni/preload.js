// Loaded into NNI's manager before its own code (node --require). NNI 3.0 listens on all interfaces, without a login:
// here it listens on AUTOPRUNE_NNI_HOST. It ends with the process that started it, AUTOPRUNE_NNI_OWNER, even a killed one.
'use strict';
const childProcess = require('child_process');
const crypto = require('crypto');
const fs = require('fs');
const Module = require('module');
const net = require('net');

if (!/nni_node[\\/](.*[\\/])?main\.js$/.test(process.argv[1] || '')) {
    return; // another program of node's, begun by a trial or in the user's shell
}

const host = process.env.AUTOPRUNE_NNI_HOST || '127.0.0.1';
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
    const [first, second] = args;
    const isPort = typeof first === 'number' || (typeof first === 'string' && /^\d+$/.test(first));
    if (isPort && typeof second !== 'string') {
        args.splice(1, typeof second === 'undefined' && args.length > 1 ? 1 : 0, host);
    } else if (first !== null && typeof first === 'object' && first.port !== undefined && !first.host) {
        args[0] = { ...first, host };
    }
    return listen.apply(this, args);
};

// So does the TensorBoard that a button of its page starts.
const { spawn } = childProcess;
childProcess.spawn = function (command, args, ...rest) {
    const isBoard = command === 'tensorboard' && Array.isArray(args);
    const bound = isBoard ? args.map((each) => each.replace(/^--bind_all\b/, `--host ${host}`)) : args;
    return spawn.call(this, command, bound, ...rest);
};

// It gives its tuner ten seconds to begin, which are too few on a busy machine.
const { setTimeout: wait } = global;
const patient = (callback, milliseconds, ...args) =>
    wait(callback, milliseconds === 10000 ? 120000 : milliseconds, ...args);
Object.defineProperties(patient, Object.getOwnPropertyDescriptors(wait)); // promisified, too
global.setTimeout = patient;

// It gives out parameters in the order in which trials ask, not by trial: what it notes of one is then another's, and
// when one fails its tuner is told of the other. Here each trial gets its own.
function adapt(V3asV1) {
    const submit = V3asV1.prototype.submitTrialJob;
    V3asV1.prototype.submitTrialJob = async function (form) {
        await this.startDeferred.promise;
        const envId = form.id ? form.envId : this.schedule();
        if (!form.id && envId !== null) {
            const id = crypto.randomBytes(5).toString('hex').slice(0, 8);
            form = { ...form, id, envId };
            this.allocatedParameters.set(id, form.hyperParameters.value);
        }
        return submit.call(this, form);
    };
    // A trial that an assessor ends counts as that, and not as canceled by the user: it is noted before the trial ends.
    const cancel = V3asV1.prototype.cancelTrialJob;
    V3asV1.prototype.cancelTrialJob = function (id, isEarlyStopped) {
        if (this.trialJobs[id] !== undefined) {
            this.trialJobs[id].isEarlyStopped = Boolean(isEarlyStopped);
        }
        return cancel.call(this, id, isEarlyStopped);
    };
}

// For each trial that ends it asks its tuner for another, but not for those that end while none may be begun. When more
// may be, it asks for as many as can run at a time.
function askAgain(NNIManager) {
    const update = NNIManager.prototype.updateExperimentProfile;
    NNIManager.prototype.updateExperimentProfile = function (profile, type) {
        if (type === 'MAX_TRIAL_NUM' && ['DONE', 'NO_MORE_TRIAL'].includes(this.status.status)) {
            const toBegin = (profile.params.maxTrialNumber ?? Infinity) - this.currSubmittedTrialNum;
            const idle = this.experimentProfile.params.trialConcurrency - this.trialJobs.size;
            const lacking = Math.min(toBegin, idle) - this.waitingTrials.length;
            this.trialConcurrencyChange = Math.max(this.trialConcurrencyChange, lacking);
        }
        return update.call(this, profile, type);
    };
}

const load = Module._load;
const adapted = new Set();
Module._load = function (request, ...rest) {
    const loaded = load.call(this, request, ...rest);
    for (const [name, change] of [
        ['training_service/v3/compat', () => adapt(loaded.V3asV1)],
        ['core/nnimanager', () => askAgain(loaded.NNIManager)],
    ]) {
        if (!adapted.has(name) && request.endsWith(name)) {
            adapted.add(name);
            change();
        }
    }
    return loaded;
};

process.env.AUTOPRUNE_NNI_MANAGER = String(process.pid); // with which its tuner ends (autoprune.nni.tuner)
const owner = Number(process.env.AUTOPRUNE_NNI_OWNER || 0);
function isAlive(pid) {
    try {
        const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
        return stat.slice(stat.lastIndexOf(')') + 2)[0] !== 'Z'; // ended, though its parent has not looked yet
    } catch (error) {
        return false;
    }
}
if (owner > 0) {
    setInterval(() => {
        if (!isAlive(owner)) {
            process.kill(process.pid, 'SIGTERM');
        }
    }, 500).unref();
}

// In a trial keeper on another machine (autoprune.nni.remote.keeper).
const socket = process.env.AUTOPRUNE_NNI_SOCKET;
if (socket) {
    process.env.AUTOPRUNE_NNI_KEEPER = String(process.pid);
    process.on('exit', () => fs.rmSync(socket, { force: true }));
}
