# -- agent ---------------------------------------------------------------------------------------

# The roof's own code, unpacked: from here the coding agent and a reef are installed.
fetch_wheel() {
  local folder
  folder="$REEF_HOME/dist/${WHEEL_SHA256:0:12}"
  fetch_dist "$WHEEL" "$WHEEL_SHA256" "$folder/$WHEEL"
  if [ ! -e "$folder/unpacked" ]; then
    rm -rf -- "$folder/code"
    python3 -m zipfile -e "$folder/$WHEEL" "$folder/code"
    touch "$folder/unpacked"
  fi
  CODE="$folder/code"
}

step_agent() {
  local python
  [ "$WANT_AGENT" = yes ] || skip "profile $PROFILE has no coding agent"
  python=$(find_python "3, 9") || fail "installing the agent takes Python 3.9 or newer"
  fetch_wheel
  if [ -n "$NPM_REGISTRY" ]; then export npm_config_registry="$NPM_REGISTRY"; fi
  PYTHONPATH="$CODE" "$python" -m bootloader.on_vm.agent \
    --target "$REEF_HOME/agent" --version "$AGENT_VERSION" --registry "$NPM_REGISTRY"
  mkdir -p "$REEF_HOME/bin"
  ln -sfn "$REEF_HOME/agent/pi" "$REEF_HOME/bin/pi"
  if [ "$SYSTEM" = yes ] && ! have pi; then ln -sfn "$REEF_HOME/agent/pi" /usr/local/bin/pi; fi
}

# -- reef ----------------------------------------------------------------------------------------

step_reef() {
  local python venv pip
  [ "$OWN_REEF" = yes ] || skip "profile $PROFILE has no reef of its own"
  python=$(find_python "3, 11") || fail "a reef of its own takes Python 3.11 or newer"
  fetch_wheel
  fetch_dist "$LOCK" "$LOCK_SHA256" "$REEF_HOME/dist/$LOCK"
  venv="$REEF_HOME/reef/venv-${WHEEL_SHA256:0:12}"
  if [ ! -e "$venv/complete" ]; then
    rm -rf -- "$venv"
    "$python" -m venv "$venv"
    pip=("$venv/bin/python" -m pip install --no-input --disable-pip-version-check --quiet)
    if [ -n "$PYPI_INDEX" ]; then pip+=(--index-url "$PYPI_INDEX"); fi
    "${pip[@]}" --require-hashes -r "$REEF_HOME/dist/$LOCK"
    "${pip[@]}" --no-deps --no-index "$REEF_HOME/dist/${WHEEL_SHA256:0:12}/$WHEEL"
    touch "$venv/complete"
  fi
  remove_others "$venv" "$REEF_HOME"/reef/venv-*
  write_reef_program "$venv"
  echo "reef $("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("reef"))') with organs $ORGANS"
}

# Keep the first, remove the others: what earlier versions left.
remove_others() {
  local each
  for each in "${@:2}"; do [ "$each" = "$1" ] || rm -rf -- "$each"; done
}

# Runs the VM's own reef with an environment of its own: it is nobody's child but this VM's.
write_reef_program() {
  local at lines="" apostrophe="'\\''"
  for ((at = 0; at < ${#REEF_ENV[@]}; at += 2)); do
    lines="${lines}export ${REEF_ENV[at]}='${REEF_ENV[at + 1]//\'/"$apostrophe"}'
"
  done
  write_file "${lines}export REEF_DATA_DIR='${REEF_HOME//\'/"$apostrophe"}/reef/data'
export PI_PATH='${REEF_HOME//\'/"$apostrophe"}/agent/pi'
" "$REEF_HOME/reef/reef.env" 600
  ln -sfn "$1" "$REEF_HOME/reef/current"
  write_program "$REEF_HOME/bin/reef-up" <<'PROGRAM'
#!/bin/bash
# Runs the reef of this VM, with no more of the environment than it needs.
set -eu
home=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
for name in $(compgen -e); do
  case $name in
    PATH | HOME | USER | LOGNAME | SHELL | LANG | LC_ALL | TZ | TMPDIR) ;;
    SSL_CERT_* | NODE_EXTRA_CA_CERTS | *_PROXY | *_proxy) ;;
    *) unset "$name" ;;
  esac
done
. "$home/reef/reef.env"
exec "$home/reef/current/bin/reef" up --no-agent
PROGRAM
}

# -- join ----------------------------------------------------------------------------------------

step_join() {
  local status=000 token
  if [ -n "$(own_token)" ]; then
    status=$(ask GET /bootloader/dist/ "" "$WORK/join.answer")
    [ "$status" != 200 ] || skip "this VM is a member already"
  fi
  token=$(join_token)
  [ -n "$token" ] || fail "there is no join token, and the VM's own token is not good (HTTP $status)"
  write_file "Authorization: Bearer $token
" "$WORK/auth" 600
  [ -s "$WORK/nonce" ] || write_file "$(od -An -tx1 -N 24 /dev/urandom | tr -d ' \n')" "$WORK/nonce" 600
  join_body >"$WORK/join.json"
  status=$(ask POST /bootloader/join "$WORK/join.json" "$WORK/join.answer")
  [ "$status" = 200 ] || fail "the roof did not let this VM in (HTTP $status): $(said "$WORK/join.answer")"
  token=$(grep -o '"token":"[A-Za-z0-9._~+/=-]*"' "$WORK/join.answer" | head -n 1 | cut -d '"' -f 4)
  rm -f -- "$WORK/join.answer" "$WORK/join.json" "$WORK/join_token"
  [ -n "$token" ] || fail "the roof's answer has no token"
  write_identity "$token"
  echo "joined the fleet as $NAME ($VM_ID)"
}

join_body() {
  local version=""
  if [ -f "$REEF_HOME/agent/installed.json" ]; then
    version=$(sed -n 's/.*"version": *"\([^"]*\)".*/\1/p' "$REEF_HOME/agent/installed.json")
  fi
  printf '{"hostname":%s,"address":%s,"agentVersion":%s,"nonce":"%s"' "$(json_string "$(uname -n)")" \
    "$(json_string "$ADDRESS")" "$(json_string "$version")" "$(cat -- "$WORK/nonce")"
  [ "$FROM_ENVIRONMENT" = no ] || printf ',"vmId":%s' "$(json_string "$VM_ID")"
  printf '}'
}

# -- service -------------------------------------------------------------------------------------

step_service() {
  fetch_dist "$FLEET_AGENT" "$FLEET_AGENT_SHA256" "$REEF_HOME/dist/$FLEET_AGENT"
  mkdir -p "$REEF_HOME/bin" "$REEF_HOME/run" "$REEF_HOME/log"
  cp -- "$REEF_HOME/dist/$FLEET_AGENT" "$REEF_HOME/fleet_agent.py"
  write_program "$REEF_HOME/bin/fleet-agent" <<'PROGRAM'
#!/bin/bash
# Tells the roof how this VM is, and that it lives.
home=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
exec python3 "$home/fleet_agent.py" run --home "$home"
PROGRAM
  stop_services
  if [ "$OWN_REEF" = yes ]; then start_service reef-own "the reef of this VM" reef-up; fi
  start_service reef-fleet-agent "the fleet agent of reef" fleet-agent
}

# Name of the unit, what it is, program in our bin folder.
start_service() {
  if [ "$SYSTEM" = yes ] && [ -d /run/systemd/system ]; then
    write_file "[Unit]
Description=$2
After=network-online.target
Wants=network-online.target

[Service]
Environment=HOME=$HOME
ExecStart=$REEF_HOME/bin/$3
Restart=always
RestartSec=5
KillMode=mixed
TimeoutStopSec=20

[Install]
WantedBy=multi-user.target
" "/etc/systemd/system/$1.service" 644
    systemctl daemon-reload
    systemctl enable --quiet "$1.service"
    systemctl restart "$1.service"
    echo "$1 runs as a systemd unit"
    return
  fi
  write_program "$REEF_HOME/bin/keep-up" <<'PROGRAM'
#!/bin/bash
# Keeps one program running: its name in the bin folder, its name among the pid files.
home=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
child=
end() {
  trap - TERM INT
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null
    wait "$child"
  fi
  exit 0
}
trap end TERM INT
while :; do
  "$home/bin/$1" &
  child=$!
  wait "$child"
  sleep 5 &
  child=$!
  wait "$child"
done
PROGRAM
  setsid nohup "$REEF_HOME/bin/keep-up" "$3" "$1" </dev/null >>"$REEF_HOME/log/$1.log" 2>&1 9>&- &
  write_file "$!" "$REEF_HOME/run/$1.pid" 600
  echo "$1 runs detached; its log is $REEF_HOME/log/$1.log"
}

stop_services() {
  local each pid
  for each in reef-fleet-agent reef-own; do
    if [ "$SYSTEM" = yes ] && [ -d /run/systemd/system ] && [ -e "/etc/systemd/system/$each.service" ]; then
      systemctl stop "$each.service" || true
    fi
    pid=$(cat -- "$REEF_HOME/run/$each.pid" 2>/dev/null || true)
    if is_keeper "$pid"; then end_keeper "$pid"; fi
    rm -f -- "$REEF_HOME/run/$each.pid"
  done
}

# Whether this pid is one of ours, and not somebody who has its number by now.
is_keeper() {
  [ -n "$1" ] && tr '\000' '\n' <"/proc/$1/cmdline" 2>/dev/null | grep -qxF -- "$REEF_HOME/bin/keep-up"
}

end_keeper() {
  local tries
  kill -TERM "$1" 2>/dev/null || return 0
  for ((tries = 0; tries < 75; tries++)); do
    is_keeper "$1" || return 0
    sleep 0.2
  done
  kill -KILL -- "-$1" 2>/dev/null || true
}

# -- health --------------------------------------------------------------------------------------

step_health() {
  local tries
  if [ "$OWN_REEF" = yes ]; then
    await 60 own_reef_answers ||
      fail "the reef of this VM does not answer at port $REEF_PORT: $(tail -n 3 -- "$REEF_HOME/log/reef-own.log" 2>/dev/null)"
    echo "the reef of this VM answers at port $REEF_PORT"
  fi
  await 30 agent_runs || fail "the fleet agent does not run: $(tail -n 3 -- "$REEF_HOME/log/reef-fleet-agent.log" 2>/dev/null)"
  await 45 roof_says_live || fail "the roof does not say that this VM is live: $(said "$WORK/health.answer")"
  echo "the roof says that this VM is live"
  if [ "$WANT_AGENT" = yes ]; then
    echo "the agent is $(PI_OFFLINE=1 PI_SKIP_VERSION_CHECK=1 "$REEF_HOME/bin/pi" --version </dev/null 2>&1 | tail -n 1)"
  fi
}

# Seconds, and a question that is asked until it is true.
await() {
  local end=$((SECONDS + $1))
  until "$2"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 1
  done
}

own_reef_answers() {
  python3 - "$REEF_PORT" 2>/dev/null <<'PYTHON'
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
opener.open("http://127.0.0.1:%s/health" % sys.argv[1], timeout=5).read()
PYTHON
}

agent_runs() {
  if [ "$SYSTEM" = yes ] && [ -d /run/systemd/system ]; then
    systemctl is-active --quiet reef-fleet-agent.service
  else
    is_keeper "$(cat -- "$REEF_HOME/run/reef-fleet-agent.pid" 2>/dev/null)"
  fi
}

roof_says_live() {
  local status
  status=$(http GET "/registry/vms/$(url_part "$VM_ID")" "" "$WORK/health.answer")
  [ "$status" = 200 ] && grep -q '"liveness":"live"' "$WORK/health.answer"
}
