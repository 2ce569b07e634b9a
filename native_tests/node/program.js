'use strict';
// What the programs here share: settings come as JSON in the first argument, commands and answers as JSON lines.
const readline = require('node:readline');

const settings = JSON.parse(process.argv[2]);

function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function told(error) {
  return { error: String((error && error.message) || error) };
}

// Each command gets one answer with its number. A program ends with its standard input, so none outlives its test.
function obey(handle) {
  readline
    .createInterface({ input: process.stdin })
    .on('line', async (line) => {
      const { number, ...command } = JSON.parse(line);
      try {
        const answer = await handle(command);
        say({ number, answer: answer === undefined ? null : answer });
      } catch (error) {
        say({ number, ...told(error) });
      }
    })
    .on('close', () => process.exit(0));
}

// Bull's own way to say where Redis is; only the path of a unix socket is ever used here.
function queue(extra) {
  const Bull = require('bull');
  return new Bull(settings.queue, {
    redis: { path: settings.socket },
    prefix: settings.prefix,
    settings: settings.bull || {},
    ...extra,
  });
}

module.exports = { obey, queue, say, settings, told };
