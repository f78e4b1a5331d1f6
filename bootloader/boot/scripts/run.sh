# -- running steps -------------------------------------------------------------------------------

# Run one step; the script ends with the first failure.
run_step() {
  local began status log="$WORK/$1.log" took
  echo "== $1"
  report "$1" started 0 null ""
  began=$(now_ms)
  (
    set -euo pipefail
    "step_$1"
  ) </dev/null 2>&1 | tee -- "$log"
  status=${PIPESTATUS[0]}
  took=$(($(now_ms) - began))
  case $status in
    0) report "$1" ok "$took" 0 "$log" ;;
    "$SKIPPED") report "$1" skipped "$took" 0 "$log" ;;
    *)
      report "$1" failed "$took" "$status" "$log"
      # npm's last lines only tell where its log is.
      echo "boot failed in step $1: $(grep -v -e 'A complete log of this run' -e '^[[:space:]]*$' -- "$log" | tail -n 1)" >&2
      exit 1
      ;;
  esac
}

main() {
  [ "$((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1]))" -ge 404 ] || fail "this script needs bash 4.4 or newer"
  umask 022
  mkdir -p -- "$WORK/reports"
  chmod 700 -- "$REEF_HOME"
  rm -f -- "$WORK"/reports/*.json "$WORK/http.err"
  if have flock; then
    exec 9>"$WORK/lock"
    flock -w 1800 9 || fail "another boot of this VM has been at work for half an hour"
  fi
  write_auth
  local each
  for each in dns identity packages agent reef join service health; do
    # A step may have obtained another token.
    write_auth
    run_step "$each"
  done
  rm -f -- "$WORK/auth"
  echo "$NAME is a member of the fleet"
}

main "$@"
