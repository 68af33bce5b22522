#!/usr/bin/env bash
# Run the published commands on antmaze: scripts/antmaze.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" antmaze "$@"
