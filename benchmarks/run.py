"""Runs the benchmarks: measures, writes benchmarks/results.json, and the tables and pictures of BENCHMARKS.md.

    make bench                                          all of it, in an environment of its own
    python benchmarks/run.py --only losses "V = 32,000" the cases whose group or name contains one of these
    python benchmarks/run.py --quick                    small cases, three rounds; writes nothing
    python benchmarks/run.py --tables                   measures nothing; writes tables and pictures again

Exit code 1 if a side's numbers are not ours or a side raised; the other cases are measured and written nevertheless.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.harness import QUICK, Case, Failed, Unequal, Workers, measure, number, text_of, verdict  # noqa: E402
from benchmarks.pictures import curves, draw  # noqa: E402
from dpo_numpy.cli.run_folder import write_whole  # noqa: E402

RESULTS, PAGE = ROOT / "benchmarks" / "results.json", ROOT / "BENCHMARKS.md"
LIBRARIES = ("numpy", "scipy", "torch", "jax", "jaxlib", "autograd", "trl")
BUSY = 0.5


def modules() -> list[str]:
    """benchmarks.cases.losses ..."""
    return [f"benchmarks.cases.{path.stem}" for path in sorted((ROOT / "benchmarks" / "cases").glob("*.py"))]


def cases(only: Iterable[str] = ()) -> list[tuple[str, Case]]:
    found = [(module, case) for module in modules() for case in import_module(module).CASES]
    only = list(only)
    return [(module, case) for module, case in found
            if not only or any(part in case.group or part in case.name for part in only)]


# ---- the machine

def machine(threads: int) -> dict[str, Any]:
    """From /proc and /sys, which other systems than Linux lack: what is not there is left out."""
    def read(path: str) -> str:
        try:
            return Path(path).read_text()
        except OSError:
            return ""

    cpu = re.search(r"model name\s*: (.*)", read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+) kB", read("/proc/meminfo"))
    caches = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (read(str(folder / name)).strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            caches[f"L{level}"] = size.replace("K", " KiB")
    told = {"cpu": cpu[1] if cpu else platform.processor(), "cores": len(os.sched_getaffinity(0)), "caches": caches,
            "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "", "system": platform.platform(terse=True)}
    return {name: x for name, x in told.items() if x} | {"threads": threads}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# ---- the page

Row = dict[str, str]


def rows(result: Mapping[str, Any]) -> list[Row]:
    """A row a peer; one without, where there is none."""
    ours = {"case": result["name"], "ours": text_of(result["seconds"][result["ours"]][1])}
    found = []
    for label, peer in result["peers"].items():
        row = {**ours, "peer": label}
        if "missing" in peer:
            row |= {"its time": "not installed"}
        else:
            low, median, high = peer["ratio"]
            target = peer["target"]
            row |= {"its time": text_of(result["seconds"][label][1]),
                    "its / ours": f"{number(median)} ({number(low)} to {number(high)})",
                    "target": "" if target is None else number(target), "": verdict(median, target)}
        found.append(row)
    notes = [str(facts["note"]) for facts in result["facts"].values() if "note" in facts]
    found = found or [ours]
    if notes:
        found[0]["note"] = "; ".join(notes)
    return found


def markdown(table: list[Row]) -> str:
    columns = list(dict.fromkeys(name for row in table for name in row if name not in ("", "note")))
    columns += [name for name in ("", "note") if any(name in row for row in table)]
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in table)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """{marker: text} of what is generated: `machine`, and a table of each group."""
    found = {"machine": of_machine(results), "table: profiles": of_profiles(results)}
    groups: dict[str, list[Any]] = {}
    for result in results["cases"].values():
        groups.setdefault(result["group"], []).append(result)
    for group, members in groups.items():
        module = import_module(members[0]["module"])
        table = getattr(module, "table", None)
        met = [verdict(peer["ratio"][1], peer["target"]) for result in members for peer in result["peers"].values()
               if "ratio" in peer and peer["target"] is not None]
        said = f"\n\nOf {len(met)} targets {met.count('met')} are met." if len(met) > 1 else ""
        drawn = "".join(f"\n\n![Peer's time over ours, by {what}](benchmarks/scaling_{name}.png)"
                        for name, (what, axis, pick) in getattr(module, "SCALING", {}).items()
                        if curves(members, axis, pick))
        found[f"table: {group}"] = (table or plain)(members) + said + drawn
    return found


def plain(members: list[Mapping[str, Any]]) -> str:
    return markdown([row for result in members for row in rows(result)])


def merged(before: Mapping[str, Any], found: Mapping[str, Any], known: list[str], everything: bool) -> dict[str, Any]:
    """Results in the order of the cases; those of cases that are not there, as for want of data, stay in a part."""
    kept = {name: result for name, result in before.items() if name in known or not everything} | found
    groups = list(dict.fromkeys(name.partition(": ")[0] for name in [*known, *kept]))
    order = {name: k for k, name in enumerate(known)}
    return {name: kept[name] for name in sorted(
        kept, key=lambda name: (groups.index(name.partition(": ")[0]), order.get(name, len(order)), name))}


def of_machine(results: Mapping[str, Any]) -> str:
    here, load = results["machine"], max(r["load"] for r in results["cases"].values())
    dates = [r["date"] for r in results["cases"].values()]
    caches = ", ".join(f"{name} {size}" for name, size in here.get("caches", {}).items())
    parts = [here["cpu"], f"{here['cores']} cores", caches, here.get("memory"), here.get("system")]
    lines = ["- Machine: " + ", ".join(part for part in parts if part),
             f"- Threads: {here['threads']} for each library, unless a case says otherwise",
             "- Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
             f"- Date: {' to '.join(sorted({min(dates), max(dates)}))}; highest load average meanwhile: {load:.1f}"]
    return "\n".join(lines)


def of_profiles(results: Mapping[str, Any]) -> str:
    """A row a case that was profiled."""
    return markdown([{"group": result["group"], "case": result["name"], "where our time goes": ", ".join(
        f"{name.replace('_', chr(92) + '_')} {share:.0%}" for name, share in result["profile"].items())}
        for result in results["cases"].values() if result["profile"]])


BETWEEN = re.compile(r"(<!-- (machine|table: [^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def written(page: str, parts: Mapping[str, str]) -> str:
    """The page with what is between markers written anew; what is written by hand stays.

    Raises `ValueError` on a part without a marker.
    """
    lost = parts.keys() - {found[2] for found in BETWEEN.finditer(page)}
    if lost:
        raise ValueError(f"the page has no marker for {', '.join(sorted(lost))}; "
                         f"expected <!-- {min(lost)} --> ... <!-- end -->")
    return BETWEEN.sub(
        lambda found: f"{found[1]}{parts[found[2]]}\n{found[3]}" if found[2] in parts else found[0], page)


def write(results: Mapping[str, Any]) -> None:
    page = written(PAGE.read_text("utf-8"), tables(results)).encode()
    told = json.dumps(results, indent=1, ensure_ascii=False).encode() + b"\n"
    for path, content in ((RESULTS, told), (PAGE, page)):
        write_whole(path, lambda file, content=content: file.write(content))
    draw(results, ROOT / "benchmarks")


# ---- the command

def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="SUBSTRING",
                        help=f"groups: {', '.join(dict.fromkeys(case.group for _, case in cases()))}")
    parser.add_argument("--rounds", type=int, help="how often each side is timed; else by how long it takes")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each library")
    parser.add_argument("--quick", action="store_true", help="small cases, three rounds; writes nothing")
    parser.add_argument("--no-write", action="store_true", help="print, and leave results and page as they are")
    parser.add_argument("--tables", action="store_true", help="measure nothing, write tables and pictures again")
    args = parser.parse_args()
    before = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"cases": {}}
    if args.tables:
        write(before)
        return 0
    chosen = cases(args.only)
    if not chosen:
        parser.error(f"--only {' '.join(args.only)}: no group and no name of a case holds that; --help lists groups")
    for name in ("threads", "rounds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; expected at least 1")
    writes, here = not (args.no_write or args.quick), {"machine": machine(args.threads), "versions": versions()}
    if writes and args.only and before["cases"] and here != {name: before[name] for name in here}:
        parser.error("the results kept are of another machine, of other versions or threads: measure all of it, "
                     "or give --no-write")
    load = os.getloadavg()[0]
    print(f"load average {load:.2f}; {args.threads} threads a library")
    if load > BUSY:
        print(f"warning: something else runs here (load above {BUSY}); timings are of little use")
    rounds = args.rounds or (QUICK if args.quick else None)
    found, failures, absent, last = {}, [], set(), ""
    for module in dict.fromkeys(module for module, _ in chosen):
        with Workers(args.threads) as workers:
            for case in (case for its, case in chosen if its == module):
                if case.group != last:
                    print(f"\n{case.group}")
                    last = case.group
                try:
                    result = measure(module, case, workers, rounds, args.quick)
                except (Unequal, Failed) as e:
                    failures.append(str(e))
                    print(f"  {case.name}: FAILED, {str(e).strip().splitlines()[-1]}")
                    continue
                found[f"{case.group}: {case.name}"] = result
                for row in rows(result):
                    absent |= {row["peer"]} if row.get("its time") == "not installed" else set()
                    print("  " + "  ".join(f"{x:<{28 if name == 'case' else 12}}" for name, x in row.items()),
                          flush=True)
    if absent:
        print(f"\nnot installed: {', '.join(sorted(absent))}")
    if found and writes:
        known = [f"{case.group}: {case.name}" for _, case in cases()]
        write({**here, "cases": merged(before["cases"], found, known, not args.only)})
    for failure in failures:
        print(f"\n{failure.strip()}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
