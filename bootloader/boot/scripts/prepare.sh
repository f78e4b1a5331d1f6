# -- dns -----------------------------------------------------------------------------------------

# Print the host of a URL if it is a name that must be resolved.
host_of() {
  local host=${1#*://}
  host=${host%%[/?#]*}
  host=${host##*@}
  case $host in \[*) return ;; esac
  host=${host%%:*}
  case $host in localhost | "" | *[!A-Za-z0-9._-]*) return ;; *[!0-9.]*) printf '%s' "$host" ;; esac
}

finds() { [ -z "$1" ] || getent ahosts -- "$1" >/dev/null 2>&1; }

# After a restore a VM may have lost its name servers.
step_dns() {
  local roof others=() each missing=""
  roof=$(host_of "$ROOF_URL")
  [ "$WANT_AGENT" = no ] || others+=("$(host_of "$NPM_SOURCE")")
  [ "$OWN_REEF" = no ] || others+=("$(host_of "$PYPI_INDEX")")
  for each in "$roof" "${others[@]}"; do finds "$each" || missing=$each; done
  [ -n "$missing" ] || skip "all names are found"
  echo "$missing is not found"
  if [ "$SYSTEM" = yes ]; then mend_dns "$missing"; fi
  finds "$roof" || fail "$roof is not found: this VM has no working name server"
  for each in "${others[@]}"; do finds "$each" || echo "$each is still not found; a proxy may know it"; done
}

mend_dns() {
  if [ -d /run/systemd/system ] && systemctl try-restart systemd-resolved 2>/dev/null; then
    finds "$1" && return
  fi
  [ -e "$WORK/resolv.conf.before" ] || cp -L /etc/resolv.conf "$WORK/resolv.conf.before" 2>/dev/null || true
  if [ -L /etc/resolv.conf ]; then rm -f /etc/resolv.conf; fi
  printf 'nameserver %s\n' "${NAMESERVERS[@]}" >/etc/resolv.conf
  chmod 644 /etc/resolv.conf
  echo "wrote ${#NAMESERVERS[@]} name servers to /etc/resolv.conf"
}

# -- identity ------------------------------------------------------------------------------------

# Set this VM's identity, after removing that of the VM it was copied from.
step_identity() {
  local old="" told=""
  check_clock
  [ -n "$VM_ID" ] || fail "VERS_VM_ID is not set: this script does not know which VM it is on"
  if [ -n "$MACHINE_ID" ] && [ "$SYSTEM" = yes ] && [ -s /etc/vm_id ]; then
    told=$(tr -d '\000\r\n' </etc/vm_id)
    [ "$told" = "$MACHINE_ID" ] || fail "this is VM $told, and the script was made for VM $MACHINE_ID (by /etc/vm_id)"
  fi
  if [ -f "$WORK/vm_id" ]; then
    old=$(cat -- "$WORK/vm_id" && printf .)
    if [ "${old%.}" != "$VM_ID" ]; then leave_inherited "${old%.}"; fi
  fi
  if [ "$SYSTEM" = yes ]; then forget_stale; fi
  write_file "$VM_ID" "$WORK/vm_id" 600
  [ -n "$(join_token)" ] || [ -n "$(own_token)" ] || ask_for_token
  write_identity "$(own_token)"
  authorize_keys
  if [ "$SYSTEM" = yes ]; then
    write_file "if [ -r $REEF_HOME/identity.env ]; then . $REEF_HOME/identity.env; fi
" /etc/profile.d/reef.sh 644
  fi
  echo "this is VM $VM_ID, named $NAME"
}

# A restored VM has the clock of its snapshot: certificates would not be valid yet.
check_clock() {
  local theirs skew side=ahead\ of trusted=yes
  theirs=$(roof_time --proto =http,https)
  if [ -z "$theirs" ]; then
    # Its certificate may be rejected just because of the clock. Then only warn.
    theirs=$(roof_time --insecure)
    trusted=no
  fi
  [ -n "$theirs" ] || return 0
  skew=$(($(date +%s) - theirs))
  [ "${skew#-}" -gt 60 ] || return 0
  [ "$skew" -gt 0 ] || side=behind
  echo "this machine's clock is $(span_of "${skew#-}") $side reef's (by the Date of its answer)"
  if [ "$SYSTEM" = yes ] && [ "$trusted" = yes ] && date -u -s "@$theirs" >/dev/null 2>&1; then
    echo "the clock was set"
  else
    echo "set the clock as root, for example by: date -u -s '$(date -u -d "@$theirs" '+%Y-%m-%d %H:%M:%S')'"
  fi
}

# Print the root's time, from its Date header, in seconds since 1970; nothing without that header.
roof_time() {
  local said
  have curl || return 0
  said=$(
    curl -sS "$@" --connect-timeout 15 --max-time 30 -o /dev/null -D - --url "$ROOF_URL/health" 2>/dev/null |
      tr -d '\r' | sed -n 's/^[Dd]ate: *//p' | tail -n 1
  )
  [ -z "$said" ] || date -u -d "$said" +%s 2>/dev/null || true
}

span_of() {
  if [ "$1" -ge 345600 ]; then
    echo "$((($1 + 43200) / 86400)) days"
  elif [ "$1" -ge 7200 ]; then
    echo "$((($1 + 1800) / 3600)) h"
  else
    echo "$((($1 + 30) / 60)) min"
  fi
}

# This VM is a copy of another one that still runs: stop everything that could act in its name.
leave_inherited() {
  local away
  away="$REEF_HOME/inherited/$(date +%Y%m%dT%H%M%S)"
  echo "this VM was copied from $1; ending what it brought along"
  stop_services
  if [ "$SYSTEM" = yes ]; then
    if have tmux; then
      tmux kill-session -t pi-rpc 2>/dev/null || true
      tmux kill-session -t pi-keeper 2>/dev/null || true
    fi
    rm -rf /tmp/pi-rpc
  fi
  end_lieutenants
  end_processes_of "$1"
  mkdir -p "$away"
  rm -f -- "$REEF_HOME/identity.json" "$REEF_HOME/identity.env" "$REEF_HOME/join-token" "$WORK/auth" "$WORK/asked-token"
  rm -rf -- "$REEF_HOME/run"
  # Rows, keys and tokens of the other VM's reef are useless here.
  [ ! -d "$REEF_HOME/reef/data" ] || mv -- "$REEF_HOME/reef/data" "$away/reef-data"
}

# Agents of the VM's own reef, and their shims, outlive its service.
end_lieutenants() {
  local each pid
  for each in /proc/[0-9]*/cwd; do
    pid=${each#/proc/}
    case $(readlink -- "$each" 2>/dev/null || true) in
      "$REEF_HOME"/reef/data/lieutenants/*) kill -KILL "${pid%/cwd}" 2>/dev/null || true ;;
    esac
  done
}

# Processes with the other VM's id in their environment, except the ancestors of this script.
end_processes_of() {
  local each pid ours=" " parent=$$ found=()
  while [ "${parent:-0}" -gt 1 ]; do
    ours="$ours$parent "
    parent=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$parent/status" 2>/dev/null || true)
  done
  for each in /proc/[0-9]*/environ; do
    pid=${each#/proc/}
    pid=${pid%/environ}
    case $ours in *" $pid "*) continue ;; esac
    [ "$pid" != "$BASHPID" ] || continue
    if tr '\n\000' '\002\n' 2>/dev/null <"$each" | grep -qxF -- "VERS_VM_ID=${1//$'\n'/$'\002'}"; then
      found+=("$pid")
    fi
  done
  [ "${#found[@]}" -gt 0 ] || return 0
  echo "ending ${#found[@]} processes that carry its id"
  kill -TERM "${found[@]}" 2>/dev/null || true
  sleep 3
  kill -KILL "${found[@]}" 2>/dev/null || true
}

# Remove lines of older images that would override ours in a login shell.
forget_stale() {
  local file=/etc/profile.d/reef-agent.sh
  [ -f "$file" ] || return 0
  sed -i -E '/^(export )?(VERS_(VM_ID|AGENT_NAME|AGENT_ROLE|INFRA_URL|AUTH_TOKEN)|REEF_(PARENT_VM_ID|CATEGORY))=/d' "$file"
}

# A script without an identity has the token of a caller who may create VMs.
ask_for_token() {
  [ -n "${VERS_AUTH_TOKEN:-}" ] || fail "neither REEF_JOIN_TOKEN nor VERS_AUTH_TOKEN is set: nobody lets this VM in"
  local status token parent=null
  [ -z "$PARENT_ID" ] || parent=$(json_string "$PARENT_ID")
  write_file "{\"vmId\":$(json_string "$VM_ID"),\"name\":$(json_string "$NAME"),\"type\":$(json_string "$PROFILE"),\"parentVmId\":$parent}" "$WORK/ask.json" 600
  status=$(ask POST /bootloader/generate "$WORK/ask.json" "$WORK/answer")
  [ "$status" = 201 ] || fail "the roof gave no join token (HTTP $status): $(said "$WORK/answer")"
  token=$(grep -o '"joinToken":"[A-Za-z0-9_-]*"' "$WORK/answer" | head -n 1 | cut -d '"' -f 4)
  rm -f -- "$WORK/ask.json"; : >"$WORK/answer"
  [ -n "$token" ] || fail "the roof's answer has no join token"
  write_file "$token" "$WORK/asked-token" 600
}

# The VM's own token; empty before it has joined.
write_identity() {
  local at name value json="" lines=""
  for ((at = 0; at < ${#IDENTITY[@]}; at += 2)); do
    name=${IDENTITY[at]} value=${IDENTITY[at + 1]}
    json="$json${json:+,
} $(json_string "$name"): $(json_string "$value")"
    lines="${lines}export $name=$(shell_word "$value")
"
  done
  if [ -n "$1" ]; then
    json="$json,
 \"VERS_AUTH_TOKEN\": \"$1\""
    lines="${lines}export VERS_AUTH_TOKEN='$1'
"
  fi
  write_file "{
$json
}
" "$REEF_HOME/identity.json" 600
  write_file "$lines" "$REEF_HOME/identity.env" 600
  write_auth
}

authorize_keys() {
  local each file="$HOME/.ssh/authorized_keys"
  [ "${#AUTHORIZED_KEYS[@]}" -gt 0 ] || return 0
  (umask 077 && mkdir -p -- "$HOME/.ssh" && touch -- "$file")
  [ -z "$(tail -c 1 -- "$file")" ] || echo >>"$file"
  for each in "${AUTHORIZED_KEYS[@]}"; do
    grep -qxF -- "$each" "$file" || printf '%s\n' "$each" >>"$file"
  done
}

# -- packages ------------------------------------------------------------------------------------

python_fits() { "$1" -c "import sys; sys.exit(sys.version_info < ($2))" >/dev/null 2>&1; }

# Print the best Python that is at least of a version such as "3, 11".
find_python() {
  local each
  for each in python3 python3.14 python3.13 python3.12 python3.11; do
    if have "$each" && python_fits "$each" "$1"; then
      command -v "$each"
      return
    fi
  done
  return 1
}

step_packages() {
  local wanted=() each
  [ -s /etc/ssl/certs/ca-certificates.crt ] || wanted+=(ca-certificates)
  have python3 || wanted+=(python3)
  if [ "$OWN_REEF" = yes ] && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    wanted+=(python3-venv)
  fi
  for each in "${PACKAGES[@]}"; do
    if ! have dpkg-query || ! dpkg-query -W -f '${db:Status-Status}\n' "${each%%=*}" 2>/dev/null | grep -qx installed; then
      wanted+=("$each")
    fi
  done
  if [ "${#wanted[@]}" -gt 0 ]; then install_packages "${wanted[@]}"; else echo "all packages are there"; fi
  find_python "3, 8" >/dev/null || fail "this VM has no Python 3.8 or newer"
  place_files
}

install_packages() {
  local apt=(apt-get -q -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=300)
  [ "$SYSTEM" = yes ] || fail "without root these cannot be installed: $*"
  have apt-get || fail "these are missing, and this VM has no apt-get: $*"
  export DEBIAN_FRONTEND=noninteractive
  if [ -n "$APT_MIRROR" ]; then
    write_file "$(apt_list)
" "$WORK/apt.list" 600
    apt+=(-o "Dir::Etc::SourceList=$WORK/apt.list" -o Dir::Etc::SourceParts=/dev/null)
  fi
  "${apt[@]}" update || echo "the lists of packages could not be fetched; trying with those that are there"
  "${apt[@]}" install --no-install-recommends -- "$@" || fail "apt-get could not install: $*"
}

apt_list() {
  local codename id
  codename=$(sed -n 's/^VERSION_CODENAME="\{0,1\}\([a-z]*\).*/\1/p' /etc/os-release)
  id=$(sed -n 's/^ID="\{0,1\}\([a-z]*\).*/\1/p' /etc/os-release)
  if [ "$id" = ubuntu ]; then
    printf 'deb %s %s main universe\n' "$APT_MIRROR" "$codename"
    printf 'deb %s %s-updates main universe\n' "$APT_MIRROR" "$codename"
  else
    printf 'deb %s %s main\n' "$APT_MIRROR" "$codename"
  fi
}

# Write the files of the profile; relative paths are in our folder.
place_files() {
  local at path
  for ((at = 0; at < ${#FILES[@]}; at += 3)); do
    path=${FILES[at]}
    case $path in /*) ;; *) path="$REEF_HOME/$path" ;; esac
    write_file "${FILES[at + 2]}" "$path" "${FILES[at + 1]}"
    echo "wrote $path"
  done
}
