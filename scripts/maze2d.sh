#!/usr/bin/env bash
# Run the published commands on maze2d: scripts/maze2d.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" maze2d "$@"
