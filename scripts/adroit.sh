#!/usr/bin/env bash
# Run the published commands on pen, hammer, door and relocate: scripts/adroit.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" adroit "$@"
