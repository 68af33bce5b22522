#!/usr/bin/env bash
# The published runs on antmaze: scripts/antmaze.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" antmaze "$@"
