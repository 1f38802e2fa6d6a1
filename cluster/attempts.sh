#!/bin/sh
# Run a command until it succeeds or fails for good:  sh cluster/attempts.sh python jobs/align.py CONFIG.yaml
#
# KubeRay does not tell exit codes apart: every failed attempt that it repeats is a new cluster. So the attempts are
# made here, on the cluster that is there. 75 (a store that does not answer, a critic that gives no scores) and the
# end by a signal (too little memory on the head) are tried again, each waiting twice as long; 2 (a mistake) and
# everything else (a bug) end the job at once.
attempts=${FT2RAY_ATTEMPTS:-4}
pause=${FT2RAY_PAUSE_SECONDS:-30}
attempt=1
while :; do
    "$@"
    code=$?
    if [ "$code" -ne 75 ] && [ "$code" -lt 128 ]; then exit "$code"; fi
    if [ "$attempt" -ge "$attempts" ]; then exit "$code"; fi
    attempt=$((attempt + 1))
    echo "Exit code $code: attempt $attempt of $attempts follows in $pause s"
    sleep "$pause"
    pause=$((pause * 2))
done
