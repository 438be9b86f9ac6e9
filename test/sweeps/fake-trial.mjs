// A trial for tests: reads a frozen config, "trains" a few checkpointed steps, writes scores. Takes a
// lock so that two at once would be seen, and counts how often it came to its end.
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

const [configPath, dir, mode = "plain"] = process.argv.slice(2);
const config = JSON.parse(readFileSync(configPath, "utf8"));
const write = (name, value) => {
  writeFileSync(join(dir, `${name}.${process.pid}.tmp`), JSON.stringify(value));
  renameSync(join(dir, `${name}.${process.pid}.tmp`), join(dir, name));
};
/** A killed process keeps its id until its parent asks how it ended; it does no work any more. */
const works = (pid) => {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return !/[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3));
  } catch {
    return !existsSync("/proc/self/stat");
  }
};
mkdirSync(dir, { recursive: true });
if (existsSync(join(dir, "owner"))) {
  const owner = Number(readFileSync(join(dir, "owner"), "utf8"));
  if (works(owner)) {
    appendFileSync(join(dir, "overlaps"), `${owner} ${process.pid}\n`);
  }
}
writeFileSync(join(dir, "owner"), String(process.pid));
write("config.json", config);
if (mode === "fail" && config.seed === 1) {
  console.error("error: this seed does not work");
  process.exit(3);
}
if (mode === "memory" && config.seed === 1) {
  console.error(
    "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
  );
  process.abort();
}
let stop;
for (const [signal, code] of [
  ["SIGTERM", 143],
  ["SIGINT", 130],
  ["SIGUSR2", 75],
]) {
  process.on(signal, () => (stop = code));
}
let step = existsSync(join(dir, "step.json"))
  ? JSON.parse(readFileSync(join(dir, "step.json")))
  : 0;
const steps = Number(process.env.FAKE_STEPS ?? 6);
while (step < steps) {
  await new Promise((done) =>
    setTimeout(done, mode === "slow" && config.trainer.tokenizer.lr > 0.05 ? 400 : 15),
  );
  step += 1;
  write("step.json", step);
  const loss = config.trainer.tokenizer.lr * 1000 + 1 / step + config.seed / 100;
  appendFileSync(
    join(dir, "metrics.jsonl"),
    `${JSON.stringify({ stage: "tokenizer", step, split: "validation", loss })}\n`,
  );
  if (stop) {
    process.exit(stop);
  }
}
const value = config.trainer.tokenizer.lr * 1000 + config.seed + config.trainer.tokenizer.batch / 8;
const protocol = { name: "fake" };
const score = {
  name: "fake/value",
  value,
  better: "lower",
  protocol,
  protocolHash: "0123456789ab",
  n: 1,
};
write("scores.json", { scores: [score] });
write("status.json", { state: "finished" });
appendFileSync(join(dir, "ends"), "finished\n");
rmSync(join(dir, "owner"), { force: true });
