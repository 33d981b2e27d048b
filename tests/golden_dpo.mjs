// Another language holds itself against the golden file: DPO in JavaScript, on every dpo case of the seam "pair".
//     node tests/golden_dpo.mjs [FILE]
import { readFileSync } from "node:fs";

const file = process.argv[2] ?? new URL("../dpo_numpy/conformance/golden.json", import.meta.url);
const number = (x) => (typeof x === "string" ? Number(x.replace("inf", "Infinity")) : x);

const view = new DataView(new ArrayBuffer(8));
const ofBits = (bits) => (view.setBigUint64(0, bits), view.getFloat64(0));
const bitsOf = (x) => (view.setFloat64(0, x), view.getBigUint64(0));
const ulp = (x) => ofBits(bitsOf(Math.abs(x)) + 1n) - Math.abs(x);

// "-0x1.8p+1" is -3: the digits are the bits of the number, and its exponent stands beside them.
function hexadecimal(text) {
  const [, sign, first, fraction, exponent] = /^(-?)0x([01])\.?([0-9a-f]*)p([+-]\d+)$/.exec(text) ?? [];
  if (first === undefined) return number(text);
  const biased = first === "1" ? Number(exponent) + 1023 : 0; // "0": zero, or a subnormal number
  const size = ofBits((BigInt(biased) << 52n) | BigInt(`0x${fraction.padEnd(13, "0")}`));
  return sign ? -size : size;
}

const same = (decimal, hex) =>
  Array.isArray(hex) ? hex.every((x, i) => same(decimal[i], x)) : Object.is(number(decimal), hexadecimal(hex));

function dpo([w, l], [refW, refL], beta) {
  const z = beta * (w - refW - (l - refL));
  const e = Math.exp(-Math.abs(z)); // at most 1
  const value = z > 0 ? Math.log1p(e) : Math.log1p(e) - z;
  const slope = (-beta * (z > 0 ? e : 1)) / (1 + e);
  return [value, slope, -slope];
}

let [checked, worst, agrees] = [0, 0, true];
for (const { what, hyper, inputs, value, grad, hex } of JSON.parse(readFileSync(file)).pair.dpo) {
  if (!same([hyper.beta, inputs.logp, inputs.ref_logp, value, grad.logp],
            [hex.hyper.beta, hex.inputs.logp, hex.inputs.ref_logp, hex.value, hex.grad.logp])) {
    console.log(`${what}: the decimals are not the hexadecimals`);
    agrees = false;
  }
  inputs.logp.forEach((logp, b) => {
    const ours = dpo(logp, inputs.ref_logp[b], hyper.beta);
    const golden = [value[b], ...grad.logp[b]].map(number);
    // how far the exact answer moves when each log-prob moves by an ulp; a slope, β times that at most
    const moves = Math.abs(golden[1]) * [...logp, ...inputs.ref_logp[b]].reduce((sum, x) => sum + ulp(x), 0);
    ours.forEach((x, i) => {
      const unit = ulp(golden[i]) + moves * (i ? hyper.beta : 1);
      const off = x === golden[i] ? 0 : Math.abs(x - golden[i]) / unit;
      [checked, worst] = [checked + 1, Math.max(worst, off)];
      if (off <= 4) return;
      agrees = false; // for NaN too
      console.log(`${what}, row ${b}: ${x} is ${off.toPrecision(3)} units off ${golden[i]}`);
    });
  });
}
console.log(`dpo: ${checked} numbers, at most ${worst.toPrecision(2)} units of rounding off`);
process.exit(checked > 0 && agrees ? 0 : 1);
