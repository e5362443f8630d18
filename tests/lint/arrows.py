"""Checks that the #include lines follow the arrows of src/CMakeLists.txt.

A module may include itself and its DEPS; only datapath may include libbpf or
libxdp; the modules' order in the file is bottom to top.
"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.M)
MODULE = re.compile(r"headgate_module\((\w+)(.*?)\n?\)", re.S)


def read_modules(cmake):
    """Module -> its DEPS, in file order."""
    modules = {}
    for name, body in MODULE.findall(cmake.read_text()):
        deps = re.search(r"\bDEPS\b([^A-Z]*)", body)
        modules[name] = set(deps.group(1).split()) if deps else set()
    return modules


def check_order(modules):
    """Every DEP stands before its user: no cycles, arrows go down."""
    seen = set()
    for name, deps in modules.items():
        for dep in sorted(deps - seen):
            yield f"module {name}: its DEPS has {dep}, which does not stand before it"
        seen.add(name)


def check_includes(root, folder, name, allowed, names):
    for path in sorted(folder.glob("**/*")):
        if path.suffix not in (".h", ".cc"):
            continue
        for mark, include in INCLUDE.findall(path.read_text()):
            top = include.split("/")[0]
            where = f"{path.relative_to(root)} includes {include}"
            # <net/if.h> is the C library's.
            if mark == '"' and top in names and top not in allowed:
                yield f"{where}: {name} may not use {top}"
            if top in ("bpf", "xdp") and not include.startswith("bpf/abi/"):
                if name != "datapath":
                    yield f"{where}: only datapath may use libbpf and libxdp"


def main():
    root = pathlib.Path(sys.argv[1])
    modules = read_modules(root / "src/CMakeLists.txt")
    ctl = read_modules(root / "ctl/CMakeLists.txt")["ctl"]
    names = set(modules)
    errors = list(check_order(modules))
    for name, deps in modules.items():
        folder = root / "src" / name
        if not list(folder.glob("*.h")):
            errors.append(f"module {name}: src/{name} has no headers")
        errors += check_includes(root, folder, name, deps | {name}, names)
    errors += check_includes(root, root / "ctl", "ctl", ctl, names)
    print("\n".join(errors) or f"{len(modules)} modules, no arrow goes up")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
