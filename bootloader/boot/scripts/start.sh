# -- from here on all scripts are the same -------------------------------------------------------

export PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin${PATH:+:$PATH}"
export LC_ALL=C.UTF-8
if [ -z "${HOME:-}" ]; then
  HOME=$(getent passwd "$(id -u)" | cut -d : -f 6)
  export HOME
fi
if [ "$(id -u)" = 0 ]; then
  REEF_HOME=${REEF_HOME:-/opt/reef}
else
  REEF_HOME=${REEF_HOME:-$HOME/.reef}
fi
export REEF_HOME
# Change the machine itself, such as its packages, only if reef is in its usual place.
if [ "$(id -u)" = 0 ] && [ "$REEF_HOME" = /opt/reef ]; then SYSTEM=yes; else SYSTEM=no; fi
WORK="$REEF_HOME/boot"
SKIPPED=77
REPORTS=0
RUN=${RUN:-$(date +%Y%m%dT%H%M%S)-$$}
# The platform's VMs have a name in its domain; others register the address that they join from.
if [ -z "$ADDRESS" ] && [ -s /etc/vm_id ] && [ "$(tr -d '\000\r\n' </etc/vm_id)" = "$VM_ID" ]; then
  ADDRESS=$VM_ID.$SSH_DOMAIN
fi
# Ignore values in the environment that an earlier boot of this VM left.
export VERS_VM_ID="$VM_ID"
IDENTITY=(VERS_VM_ID "$VM_ID" VERS_AGENT_NAME "$NAME" "${IDENTITY[@]}")
if [ -n "$ADDRESS" ]; then IDENTITY+=(REEF_ADDRESS "$ADDRESS"); fi
if [ -n "$PARENT_ID" ]; then IDENTITY+=(REEF_PARENT_VM_ID "$PARENT_ID"); fi
REEF_ENV+=(PORT "$REEF_PORT")
# The fleet agent reads the port of the VM's own reef there, if it is not the default.
if [ "$OWN_REEF" = yes ] && [ "$REEF_PORT" != 3000 ]; then IDENTITY+=(PORT "$REEF_PORT"); fi
