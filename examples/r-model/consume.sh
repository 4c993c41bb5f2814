#!/bin/sh
# A consumer of the effects, in shell: appends every published version to effects.jsonl.
#
# causey events follow --type dev.causey.model.published.v1 --name road-safety-effects --subscriber log --exec "sh consume.sh"
#
# The state folder of the stack says where the server is; curl and sed are all it needs.
set -eu

state=${CAUSEY_STATE:-.causey}

version=$(sed 's/.*"version":\([0-9]*\).*/\1/')
effects=$(curl -sfS -H "Authorization: Bearer $(cat "$state/token")" "$(cat "$state/url")/v1/models/road-safety-effects/$version/content")
echo "$effects" >> effects.jsonl
