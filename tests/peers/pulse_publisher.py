"""What people write for a pulse line today: pyserial reads, paho publishes, a message a pulse.

python pulse_publisher.py TTY HOST PORT TOPIC

QoS 1 and paho's own thread, which connects anew by itself: the usual way, without a journal.
"""

import sys

import paho.mqtt.client as mqtt
import serial
from paho.mqtt.enums import CallbackAPIVersion


def main() -> None:
    """Publishes the number of each pulse."""
    tty, host, port, topic = sys.argv[1:]
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect(host, int(port), keepalive=30)
    client.loop_start()
    with serial.Serial(tty, 9_600) as line:
        print("watching", flush=True)
        number = 0
        while line.read(1):
            number += 1
            client.publish(topic, str(number), qos=1)


if __name__ == "__main__":
    main()
