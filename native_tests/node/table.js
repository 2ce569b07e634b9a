'use strict';
// RudderStack's Node SDK without a queue, beside a data plane that takes everything: {"calls":[["track",{…}],…]} is
// answered by the event that was sent for each call, or by the error that the call threw. Each message has a `number`.
// {"$date": "…"} stands for a Date, {"$number": "NaN"} for a number that JSON has not, {"$text": 9} for a long text.
const http = require('node:http');
const Analytics = require('@rudderstack/rudder-sdk-node');
const { obey, say, told } = require('./program');

const AT_ONCE = 20;
const answers = [];
let client;

function revived(_key, value) {
  if (value && value.$date) {
    return new Date(value.$date);
  }
  if (value && value.$number) {
    return Number(value.$number);
  }
  return value && value.$text ? 'x'.repeat(value.$text) : value;
}

const plane = http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    for (const event of JSON.parse(Buffer.concat(parts)).batch) {
      answers[event.number] = { sent: event };
    }
    response.end('OK');
  });
});

plane.listen(0, '127.0.0.1', () => {
  client = new Analytics('KEY', {
    dataPlaneUrl: `http://127.0.0.1:${plane.address().port}`,
    logLevel: 'none',
    flushAt: AT_ONCE,
    gzip: false,
  });
  say({ ready: true });
});

async function emptied() {
  while (client.queue.length) {
    await client.flush();
  }
}

obey(async ({ calls }) => {
  for (const [method, message] of calls) {
    const given = JSON.parse(JSON.stringify(message), revived);
    try {
      client[method](given);
    } catch (error) {
      answers[given.number] = told(error);
    }
    if (client.queue.length >= AT_ONCE - 1) {
      await emptied(); // because the SDK reads its whole queue again at each call
    }
  }
  await emptied();
  return answers;
});
