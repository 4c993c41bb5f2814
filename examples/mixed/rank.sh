# Joins the fits: $CAUSEY_INPUTS/0, 1, … hold what each of them left.

i=0
while [ "$i" -lt "$CAUSEY_PARENTS" ]; do
  echo "$(cat "$CAUSEY_INPUTS/$i/slope.json") $(cat "$CAUSEY_INPUTS/$i/sensor.json")"
  i=$((i + 1))
done | sort -rg > "$TMPDIR/ranked"
awk '{ printf "%s{\"sensor\": %s, \"slope\": %s}", (NR > 1 ? ", " : "["), $2, $1 } END { print "]" }' "$TMPDIR/ranked" > "$CAUSEY_OUTPUTS/ranking.json"
awk 'NR == 1 { print $2 }' "$TMPDIR/ranked" > "$CAUSEY_OUTPUTS/best.json"
cat "$TMPDIR/ranked"
