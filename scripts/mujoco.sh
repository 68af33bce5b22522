#!/usr/bin/env bash
# Run the published commands on hopper, halfcheetah, walker2d and ant: scripts/mujoco.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/suite.sh" mujoco "$@"
