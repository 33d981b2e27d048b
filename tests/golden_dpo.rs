// Another language holds itself against the golden file: DPO in Rust, the standard library alone.
//     rustc golden_dpo.rs
//     dpo-numpy golden dpo --seam pair --format lines | ./golden_dpo
use std::collections::HashMap;
use std::io;
use std::process::ExitCode;

fn dpo(w: f64, l: f64, ref_w: f64, ref_l: f64, beta: f64) -> [f64; 3] {
    let z = beta * (w - ref_w - (l - ref_l));
    let e = (-z.abs()).exp(); // at most 1
    let value = if z > 0.0 { e.ln_1p() } else { e.ln_1p() - z };
    let slope = -beta * if z > 0.0 { e } else { 1.0 } / (1.0 + e);
    [value, slope, -slope]
}

/// "-0x1.8p+1" is -3: the digits are the bits of the number, and its exponent stands beside them.
fn number(word: &str) -> f64 {
    let Some((sign, digits)) = word.split_once("0x") else {
        return word.parse().expect("an integer or inf");
    };
    let (mantissa, exponent) = digits.split_once('p').expect("an exponent");
    let (first, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = u64::from_str_radix(&format!("{fraction:0<13}"), 16).expect("at most 13 digits, 52 bits");
    let exponent: i64 = exponent.parse().expect("a power of 2");
    let biased = if first == "1" { (exponent + 1023) as u64 } else { 0 }; // "0": zero, or a subnormal number
    let size = f64::from_bits(biased << 52 | fraction);
    if sign == "-" { -size } else { size }
}

fn ulp(x: f64) -> f64 {
    f64::from_bits(x.abs().to_bits() + 1) - x.abs()
}

fn main() -> ExitCode {
    let (mut checked, mut worst, mut disagree) = (0, 0.0_f64, 0);
    let mut what = String::new();
    let mut numbers: HashMap<String, Vec<f64>> = HashMap::new(); // "inputs.logp": row by row
    for line in io::stdin().lines() {
        let line = line.expect("a line of text");
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["case", _, _, found] => {
                what = found.to_string();
                numbers.clear();
            }
            [name, _shape, ref found @ ..] => {
                numbers.insert(name.to_string(), found.iter().map(|word| number(word)).collect());
            }
            _ => { // end: the case is whole
                let (logp, ref_logp) = (&numbers["inputs.logp"], &numbers["inputs.ref_logp"]);
                let (value, grad, beta) = (&numbers["value"], &numbers["grad.logp"], numbers["hyper.beta"][0]);
                for b in 0..value.len() {
                    let x = [logp[2 * b], logp[2 * b + 1], ref_logp[2 * b], ref_logp[2 * b + 1]];
                    let ours = dpo(x[0], x[1], x[2], x[3], beta);
                    let golden = [value[b], grad[2 * b], grad[2 * b + 1]];
                    // how far the exact answer moves when each log-prob moves by an ulp; a slope, β times that at most
                    let moves = golden[1].abs() * x.iter().map(|&x| ulp(x)).sum::<f64>();
                    for i in 0..3 {
                        let unit = ulp(golden[i]) + moves * if i == 0 { 1.0 } else { beta };
                        let off = if ours[i] == golden[i] { 0.0 } else { (ours[i] - golden[i]).abs() / unit };
                        checked += 1;
                        worst = worst.max(off);
                        if off.is_nan() || off > 4.0 {
                            disagree += 1;
                            println!("{what}, row {b}: {:e} is {off:.1} units off {:e}", ours[i], golden[i]);
                        }
                    }
                }
            }
        }
    }
    println!("dpo: {checked} numbers, at most {worst:.1} units of rounding off");
    if checked > 0 && disagree == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
