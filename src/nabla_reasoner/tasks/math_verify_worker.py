"""Program that compares answers with math-verify: reads [gold, answer], writes [correct, note], a JSON line each.

`math_verify_process` runs it by path, so that its process imports neither torch nor the caller's main module.
Arguments: largest address space in bytes, longest time of a comparison in seconds.
"""

import json
import resource
import signal
import sys


def main(memory_bytes: int, timeout_seconds: int) -> None:
    """Answer requests until standard input ends."""
    replies = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not look like a reply
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ValueError, OSError):  # a lower hard limit is in force
        pass
    from math_verify import parse, verify

    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        # The caller kills this process after a shorter time. The alarm ends it if the caller itself was killed: its
        # default action works inside one long bytecode operation, which math-verify's own timeouts cannot interrupt.
        signal.alarm(timeout_seconds)
        try:
            target = parse("$" + gold + "$", parsing_timeout=None)
            parsed = parse("\\boxed{" + answer + "}", parsing_timeout=None)
            correct = bool(verify(target, parsed, timeout_seconds=None))
            reply = [correct, None if target else "reference not understood"]
        except (Exception, MemoryError, RecursionError) as error:
            reply = [False, f"{type(error).__name__}: {str(error)[:200]}"]
        signal.alarm(0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
