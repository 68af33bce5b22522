#!/usr/bin/env bash
# The published runs on maze2d: scripts/maze2d.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" maze2d "$@"
