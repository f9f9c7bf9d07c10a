// A client of TUF repositories by tuf-js, as npm and sigstore-js are. Each line of the standard input is one run of it:
// {"url", "name", "dir", "root"}, the address of a repository, the target wanted, where the client keeps what it knows,
// and the root metadata, in base64, that it was installed with. Each line of the output answers one: {"data"}, in
// base64, or {"error"}.
'use strict';

const fs = require('fs');
const path = require('path');
const readline = require('readline');
const { Updater } = require('tuf-js');

async function get({ url, name, dir, root }) {
  const targets = path.join(dir, 'targets');
  fs.mkdirSync(targets, { recursive: true });
  const trusted = path.join(dir, 'root.json');
  if (!fs.existsSync(trusted)) {
    fs.writeFileSync(trusted, Buffer.from(root, 'base64'));
  }
  const updater = new Updater({
    metadataDir: dir,
    metadataBaseUrl: url,
    targetDir: targets,
    targetBaseUrl: `${url}/targets`,
  });
  const info = await updater.getTargetInfo(name);
  if (!info) {
    throw new Error(`there is no target ${name}`);
  }
  const file = (await updater.findCachedTarget(info)) || (await updater.downloadTarget(info));
  return fs.readFileSync(file);
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer;
    try {
      answer = { data: (await get(JSON.parse(line))).toString('base64') };
    } catch (err) {
      answer = { error: `${err.name}: ${err.message}` };
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
}

main();
