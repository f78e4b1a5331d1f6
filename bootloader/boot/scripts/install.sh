# -- agent ---------------------------------------------------------------------------------------

# Unpack the root's own code, from which the coding agent and a reef are installed.
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
  PYTHONPATH="$CODE" "$python" -m bootloader.boot.on_vm.install_agent \
    --target "$REEF_HOME/agent" --version "$AGENT_VERSION" --npm-from "$NPM_SOURCE"
  mkdir -p "$REEF_HOME/bin"
  ln -sfn "$REEF_HOME/agent/pi" "$REEF_HOME/bin/pi"
  if [ "$SYSTEM" = yes ] && ! have pi; then ln -sfn "$REEF_HOME/agent/pi" /usr/local/bin/pi; fi
  tell_models "$python"
}

# Configure the fleet's own model endpoint, if there is one, for users who sign in here and for
# the VM's own reef.
tell_models() {
  local url files=("$HOME/.pi/agent/models.json")
  url=$(identity_of REEF_MODEL_URL)
  [ -n "$url" ] || return 0
  if [ "$OWN_REEF" = yes ]; then
    (umask 077 && mkdir -p -- "$REEF_HOME/reef/data")
    files+=("$REEF_HOME/reef/data/pi/models.json")
  fi
  REEF_MODEL_URL=$url REEF_AGENT_MODEL=$(identity_of REEF_AGENT_MODEL) \
    OPENAI_API_KEY=$(identity_of OPENAI_API_KEY) PYTHONPATH="$CODE" \
    "$1" -m bootloader.boot.on_vm.model_endpoint "${files[@]}"
}

identity_of() {
  local at
  for ((at = 0; at < ${#IDENTITY[@]}; at += 2)); do
    if [ "${IDENTITY[at]}" = "$1" ]; then printf '%s' "${IDENTITY[at + 1]}"; fi
  done
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
    # Passed in the environment, because a mirror's address may contain a password.
    if [ -n "$PYPI_INDEX" ]; then export PIP_INDEX_URL="$PYPI_INDEX"; fi
    "${pip[@]}" --require-hashes -r "$REEF_HOME/dist/$LOCK"
    "${pip[@]}" --no-deps --no-index "$REEF_HOME/dist/${WHEEL_SHA256:0:12}/$WHEEL"
    touch "$venv/complete"
  fi
  remove_others "$venv" "$REEF_HOME"/reef/venv-*
  write_reef_program "$venv"
  echo "reef $("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("reef"))') with organs $ORGANS"
}

# Keep the first argument, remove the others, which earlier versions left.
remove_others() {
  local each
  for each in "${@:2}"; do [ "$each" = "$1" ] || rm -rf -- "$each"; done
}

# Write the program that runs the VM's own reef with an environment of its own.
write_reef_program() {
  local at lines=""
  for ((at = 0; at < ${#REEF_ENV[@]}; at += 2)); do
    lines="${lines}export ${REEF_ENV[at]}=$(shell_word "${REEF_ENV[at + 1]}")
"
  done
  write_file "${lines}export REEF_DATA_DIR=$(shell_word "$REEF_HOME/reef/data")
export PI_PATH=$(shell_word "$REEF_HOME/agent/pi")
" "$REEF_HOME/reef/reef.env" 600
  ln -sfn "$1" "$REEF_HOME/reef/current"
  write_program "$REEF_HOME/bin/reef-up" <<'PROGRAM'
#!/bin/bash
# Runs the reef of this VM with a minimal environment.
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

# The fleet agent exchanges the join token for the VM's own one and stores it in identity.json.
step_join() {
  local status=000 token pause
  fetch_dist "$FLEET_AGENT" "$FLEET_AGENT_SHA256" "$REEF_HOME/dist/$FLEET_AGENT"
  mkdir -p -- "$REEF_HOME/run" "$REEF_HOME/log"
  cp -- "$REEF_HOME/dist/$FLEET_AGENT" "$REEF_HOME/fleet_agent.py"
  if [ -n "$(own_token)" ]; then
    status=$(ask GET /bootloader/dist/ "" "$WORK/answer")
    if [ "$status" = 200 ]; then
      rm -f -- "$REEF_HOME/join-token"
      skip "this VM is a member already"
    fi
  fi
  token=$(join_token)
  [ -n "$token" ] || fail "there is no join token, and the VM's own token is not good (HTTP $status)"
  write_file "$token" "$REEF_HOME/join-token" 600
  for pause in 2 5 10 0; do
    if python3 "$REEF_HOME/fleet_agent.py" join --home "$REEF_HOME" 2>&1 | tee -- "$WORK/join.said"; then break; fi
    # A refusal is final.
    if [ "$pause" = 0 ] || grep -q ' answers 4' "$WORK/join.said"; then
      rm -f -- "$REEF_HOME/join-token"
      fail "the roof did not let this VM in: $(tail -n 1 -- "$WORK/join.said")"
    fi
    sleep "$pause"
  done
  rm -f -- "$WORK/asked-token"
  token=$(own_token)
  [ -n "$token" ] || fail "the VM's own token is not in identity.json"
  write_identity "$token"
}

# -- service -------------------------------------------------------------------------------------

step_service() {
  write_program "$REEF_HOME/bin/fleet-agent" <<'PROGRAM'
#!/bin/bash
# Runs the fleet agent, which sends this VM's heartbeats.
home=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
exec python3 "$home/fleet_agent.py" run --home "$home"
PROGRAM
  stop_services
  if [ "$OWN_REEF" = yes ]; then
    has_systemd && own_reef_unit >/etc/systemd/system/reef-own.service
    start_service reef-own reef-up
  fi
  has_systemd && python3 "$REEF_HOME/fleet_agent.py" unit --home "$REEF_HOME" >/etc/systemd/system/reef-fleet-agent.service
  start_service reef-fleet-agent fleet-agent
}

has_systemd() { [ "$SYSTEM" = yes ] && [ -d /run/systemd/system ]; }

# A restart, a crash, or one process that runs out of memory does not stop the other agents.
own_reef_unit() {
  cat <<UNIT
[Unit]
Description=the reef of this VM
Wants=network-online.target
After=network-online.target

[Service]
Environment=HOME=$HOME
ExecStart=$REEF_HOME/bin/reef-up
Restart=always
RestartSec=5
KillMode=process
OOMPolicy=continue
TasksMax=16384
TimeoutStopSec=20
UMask=0077

[Install]
WantedBy=multi-user.target
UNIT
}

# Argument: the name of the unit, and of the program in our bin folder if there is no systemd.
start_service() {
  if has_systemd; then
    systemctl daemon-reload
    systemctl enable --quiet "$1.service"
    systemctl restart "$1.service"
    echo "$1 runs as a systemd unit"
    return
  fi
  write_program "$REEF_HOME/bin/keep-up" <<'PROGRAM'
#!/bin/bash
# Keeps one program running. Arguments: its name in the bin folder, the name of its pid file.
umask 077
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
  setsid nohup "$REEF_HOME/bin/keep-up" "$2" "$1" </dev/null >>"$REEF_HOME/log/$1.log" 2>&1 9>&- &
  write_file "$!" "$REEF_HOME/run/$1.pid" 600
  echo "$1 runs detached; its log is $REEF_HOME/log/$1.log"
}

stop_services() {
  local each pid
  for each in reef-fleet-agent reef-own; do
    if has_systemd && [ -e "/etc/systemd/system/$each.service" ]; then
      systemctl stop "$each.service" || true
    fi
    pid=$(cat -- "$REEF_HOME/run/$each.pid" 2>/dev/null || true)
    if is_keeper "$pid"; then end_keeper "$pid"; fi
    rm -f -- "$REEF_HOME/run/$each.pid"
  done
}

# Succeed if this pid is still our process, not another one with a reused number.
is_keeper() {
  [ -n "$1" ] && tr '\000' '\n' 2>/dev/null <"/proc/$1/cmdline" | grep -qxF -- "$REEF_HOME/bin/keep-up"
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
  if [ "$OWN_REEF" = yes ] && ! await 60 own_reef_answers; then
    log_of reef-own
    fail "the reef of this VM does not answer at port $REEF_PORT"
  fi
  if ! python3 "$REEF_HOME/fleet_agent.py" status --home "$REEF_HOME" --wait 60 >"$WORK/status"; then
    log_of reef-fleet-agent
    fail "the roof has taken no beat of the fleet agent"
  fi
  await 30 roof_says_live || fail "the roof does not say that this VM is live: $(said "$WORK/answer")"
  echo "the roof says that this VM is live"
  [ "$OWN_REEF" = no ] || echo "the reef of this VM answers at port $REEF_PORT"
  [ "$WANT_AGENT" = no ] || echo "the agent is $(agent_version)"
}

agent_version() {
  PI_OFFLINE=1 PI_SKIP_VERSION_CHECK=1 "$REEF_HOME/bin/pi" --version </dev/null 2>&1 | tail -n 1
}

# Print the end of a service's log.
log_of() {
  if has_systemd; then
    journalctl -q -n 8 -o cat -u "$1.service" 2>/dev/null || true
  else
    tail -n 8 -- "$REEF_HOME/log/$1.log" 2>/dev/null || true
  fi
}

# Arguments: seconds, and a command that is repeated until it succeeds.
await() {
  local end=$((SECONDS + $1))
  until "$2"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 1
  done
}

# Succeed if our own reef answers at its port.
own_reef_answers() {
  python3 - "$REEF_PORT" "$REEF_HOME/reef/data/up.json" 2>/dev/null <<'PYTHON'
import json, os, sys, urllib.request
port, started = sys.argv[1:]
os.kill(json.load(open(started))["pid"], 0)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
opener.open("http://127.0.0.1:%s/health" % port, timeout=5).read()
PYTHON
}

roof_says_live() {
  local status
  status=$(http GET "/registry/vms/$(url_part "$VM_ID")" "" "$WORK/answer")
  [ "$status" = 200 ] && grep -q '"liveness":"live"' "$WORK/answer"
}
