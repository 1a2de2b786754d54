// The thread that a pool lives in: takes one call after the other, and rings when its answer is there.

import { workerData } from 'node:worker_threads';
import { failure, isFailure, ofStatement, without } from './failure.js';
import { Calls } from './calls.js';

const { settings, port, bell } = workerData;
const calls = new Calls(settings);

function answer(message) {
  port.postMessage(message);
  Atomics.add(bell, 0, 1);
  Atomics.notify(bell, 0);
}

function fail(error) {
  const failed = isFailure(error) ? error : ofStatement(error);
  answer({ failed: without(failed, settings.password) });
}

// Whoever waits must not wait for ever.
let waited = false;
process.on('uncaughtException', (error) => {
  if (waited) {
    waited = false;
    fail(failure('disconnected', `the database's driver failed: ${error.message}`, { outcomeUnknown: true }));
  }
});

port.on('message', async ({ call, rest }) => {
  waited = true;
  try {
    const answered = await calls[call](...rest);
    if (waited) {
      answer({ answer: answered });
    }
  } catch (error) {
    if (waited) {
      fail(error);
    }
  }
  waited = false;
});
