"""Runs the real Home Assistant in this process: PORT of the broker, and its FOLDER.

Each line of standard input is a command; the answer is one line of JSON:
  states              the states and attributes of the MQTT integration's entities
  changes             the state changes since the last time
  devices             the devices of the MQTT integration
  recorded            every state that the recorder stored, with its attributes
  call DOMAIN SERVICE JSON   calls a service
Home Assistant stops when standard input ends.
"""

import asyncio
import contextlib
import json
import logging
import os
import pathlib
import socket
import sqlite3
import sys
import traceback

from homeassistant import auth, config_entries, loader
from homeassistant.components.recorder import get_instance
from homeassistant.core import HomeAssistant, callback
from homeassistant.helpers import (
    area_registry,
    category_registry,
    device_registry,
    entity,
    entity_registry,
    floor_registry,
    frame,
    issue_registry,
    label_registry,
    recorder,
    restore_state,
    template,
    translation,
)
from homeassistant.setup import async_setup_component

REGISTRIES = (
    area_registry,
    category_registry,
    device_registry,
    entity_registry,
    floor_registry,
    issue_registry,
    label_registry,
)

DATABASE = "recorder.db"

RECORDED = """
    SELECT states_meta.entity_id, state, shared_attrs FROM states
    JOIN states_meta USING (metadata_id)
    LEFT JOIN state_attributes USING (attributes_id)
    ORDER BY state_id
"""


class Problems(logging.Handler):
    """Collects the warnings of the MQTT integration."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


async def start(port, folder):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    (pathlib.Path(folder) / "configuration.yaml").touch()
    hass = HomeAssistant(folder)
    hass.config.skip_pip = True
    frame.async_setup(hass)
    loader.async_setup(hass)
    entity.async_setup(hass)
    template.async_setup(hass)
    translation.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await hass.config_entries.async_initialize()
    for registry in REGISTRIES:
        await registry.async_load(hass)
    await restore_state.async_load(hass)
    hass.auth = await auth.auth_manager_from_config(hass, [], [])
    with socket.create_server(("127.0.0.1", 0)) as free:
        http = {"server_host": "127.0.0.1", "server_port": free.getsockname()[1]}
    assert await async_setup_component(hass, "http", {"http": http})
    recorder.async_initialize_recorder(hass)
    database = {"db_url": f"sqlite:///{folder}/{DATABASE}", "commit_interval": 0}
    assert await async_setup_component(hass, "recorder", {"recorder": database})
    await hass.async_start()
    if not hass.config_entries.async_entries("mqtt"):
        flows = hass.config_entries.flow
        flow = await flows.async_init("mqtt", context={"source": "user"})
        broker = {"broker": "127.0.0.1", "port": port}
        flow = await flows.async_configure(flow["flow_id"], broker)
        assert flow["type"] == "create_entry", flow
    else:
        assert await async_setup_component(hass, "mqtt", {})
    return hass


def states(hass):
    found = {}
    for known in entity_registry.async_get(hass).entities.values():
        state = hass.states.get(known.entity_id)
        if known.platform == "mqtt" and state is not None:
            found[known.entity_id] = {
                "state": state.state,
                "attributes": dict(state.attributes),
            }
    return found


def devices(hass):
    registry = device_registry.async_get(hass)
    found = {}
    for device in registry.devices.values():
        via = registry.async_get(device.via_device_id) if device.via_device_id else None
        found[device.name] = via.name if via else None
    return found


async def recorded(hass, folder):
    await get_instance(hass).async_block_till_done()
    with contextlib.closing(sqlite3.connect(f"{folder}/{DATABASE}")) as database:
        rows = database.execute(RECORDED).fetchall()
    return [{"entity_id": row[0], "state": row[1], "attributes": row[2] or ""} for row in rows]


async def main(port, folder):
    problems = Problems()
    logging.getLogger("homeassistant.components.mqtt").addHandler(problems)
    hass = await start(port, folder)
    changes = []

    @callback
    def changed(event):
        new = event.data["new_state"]
        changes.append(
            {
                "entity_id": event.data["entity_id"],
                "state": new and new.state,
                "attributes": new and dict(new.attributes),
            }
        )

    hass.bus.async_listen("state_changed", changed)
    print(json.dumps("started"), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *rest = line.strip().split(" ", 3)
        if command == "states":
            answer = states(hass)
        elif command == "devices":
            answer = devices(hass)
        elif command == "recorded":
            answer = await recorded(hass, folder)
        elif command == "problems":
            answer = problems.lines
        elif command == "changes":
            answer, changes[:] = list(changes), []
        else:
            domain, service, data = rest
            await hass.services.async_call(domain, service, json.loads(data), blocking=True)
            answer = None
        print(json.dumps(answer, default=str), flush=True)
    await hass.async_stop(force=True)


async def run(port, folder):
    try:
        await main(port, folder)
    except BaseException:
        traceback.print_exc()
        # The thread that waits for standard input would keep the process.
        os._exit(1)


asyncio.run(run(int(sys.argv[1]), sys.argv[2]))
