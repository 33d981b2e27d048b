// Another language holds itself against the golden file: DPO in naive JavaScript, on every dpo case of the seam "pair".
//     node tests/golden_dpo.mjs [FILE]
import { readFileSync } from "node:fs";

const file = process.argv[2] ?? new URL("../dpo_numpy/conformance/golden.json", import.meta.url);
const number = (x) => (typeof x === "string" ? Number(x.replace("inf", "Infinity")) : x);
const ulp = (x) => Math.max(Math.abs(x) * 2 ** -52, 2 ** -1074);

function dpo([w, l], [refW, refL], beta) {
  const z = beta * (w - refW - (l - refL));
  const value = z > 0 ? Math.log1p(Math.exp(-z)) : Math.log1p(Math.exp(z)) - z;
  const slope = -beta / (1 + Math.exp(z));
  return [value, slope, -slope];
}

let [checked, worst] = [0, 0];
for (const { what, hyper, inputs, value, grad } of JSON.parse(readFileSync(file)).pair.dpo) {
  inputs.logp.forEach((logp, b) => {
    const ours = dpo(logp, inputs.ref_logp[b], hyper.beta);
    const golden = [value[b], ...grad.logp[b]].map(number);
    // how far the exact answer moves when each log-prob moves by an ulp: the slope is a number's own bound on its change
    const inputUlps = [...logp, ...inputs.ref_logp[b]].reduce((sum, x) => sum + ulp(x), 0);
    ours.forEach((x, i) => {
      const unit = ulp(golden[i]) + Math.abs(golden[1]) * inputUlps * (i ? hyper.beta : 1);
      const off = x === golden[i] ? 0 : Math.abs(x - golden[i]) / unit;
      if (!(off <= 4)) console.log(`${what}, row ${b}: ${x} is ${off.toPrecision(3)} units off ${golden[i]}`);
      [checked, worst] = [checked + 1, off > worst || Number.isNaN(off) ? off : worst];
    });
  });
}
console.log(`dpo: ${checked} numbers, at most ${worst.toPrecision(2)} units of rounding off`);
process.exit(checked > 0 && worst <= 4 ? 0 : 1);
