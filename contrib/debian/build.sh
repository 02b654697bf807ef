#!/usr/bin/env bash
# Builds the Debian package into target/debian/, with what it needs: make deb. On Debian or Ubuntu.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

cargo_deb=3.8.0
parts=target/package

if ! command -v dpkg-shlibdeps >/dev/null; then
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update -q
    $as_root apt-get install -y dpkg-dev
fi
[ "$(cargo deb --version 2>/dev/null)" = "cargo-deb $cargo_deb" ] || cargo install --locked "cargo-deb@$cargo_deb"

cargo build --release --locked
rm -rf "$parts" target/debian
mkdir -p "$parts"
target/release/lb man "$parts/man" >/dev/null
for program in lb seed; do
    target/release/lb completions bash "$program" >"$parts/$program.bash"
    target/release/lb completions zsh "$program" >"$parts/_$program"
    target/release/lb completions fish "$program" >"$parts/$program.fish"
done
for unit in redis-lb.service redis-lb.socket; do
    sed -e 's#/usr/local/bin/lb#/usr/bin/lb#' \
        -e '/^Description=/a Documentation=file:/usr/share/doc/redis-lb/README.md' \
        "contrib/systemd/$unit" >"$parts/$unit"
done
# Links to what the package has not are its texts alone.
mkdir -p "$parts/docs"
for document in docs/*.md; do
    sed -E 's#\[([^]]*)\]\(\.\./(bench|tests|src)[^)]*\)#\1#g' "$document" >"$parts/docs/${document##*/}"
done

# Between releases, a later commit is a newer version, and the next release a newer one still.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
if commit=$(git log -1 --date=format:%Y%m%d%H%M%S --format=%cd.%h 2>/dev/null) &&
    ! git describe --exact-match --tags >/dev/null 2>&1; then
    version="$version~git$commit"
fi
cargo deb --no-build --locked --deb-version "$version-1"
