#!/bin/sh
# Builds and runs the kernels' own check: test/build.sh [compiler flags]; arguments of check in $CHECK.
set -e
cd "$(dirname "$0")/.."
out=${OUT:-/tmp/tessera-check}
mkdir -p "$out"
# shellcheck disable=SC2086
${CXX:-g++} -std=c++17 -O3 ${ARCH:--march=native} -Wall -Wextra -Wno-psabi "$@" ./*.cc test/check.cc -lpthread -o "$out/check"
# shellcheck disable=SC2086
"$out/check" $CHECK
