#!/bin/sh
# Builds and runs a bench: test/bench/run.sh conv [arguments]
set -e
cd "$(dirname "$0")/../.."
name=$1
shift
out=${OUT:-/tmp/tessera-check}
mkdir -p "$out"
if [ -z "$SKIP_BUILD" ]; then
  ${CXX:-g++} -std=c++17 -O3 ${ARCH:--march=native} -Wno-psabi ./*.cc "test/bench/$name.cc" -lpthread -o "$out/bench-$name"
fi
"$out/bench-$name" "$@"
