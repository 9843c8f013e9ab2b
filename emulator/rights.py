"""What the run-as user may: two system permissions, and a level of access for each object; values only, no HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from emulator.soql import Row
from emulator.traffic import Entity

LEVELS = ("none", "read", "view_all")
PERMISSION_SET = "0PSRj0000004kniQMA"
ONLY_WITH_VIEW_ALL_DATA = ("Task", "Event")  # Change Data Capture guide, "Required Permissions"


@dataclass
class Rights:
    """The permissions, all of them at first; an object that is not named has `view_all`."""

    view_setup: bool = True
    view_all_data: bool = True
    view_all_users: bool = True
    objects: dict[str, str] = field(default_factory=dict)

    def change(self, changes: dict[str, Any]) -> None:
        """Set what is named; objects are added to those that are set.

        Raises: ValueError, and then nothing is changed.
        """
        objects = changes.get("objects", {})
        if not isinstance(objects, dict) or not set(objects.values()) <= set(LEVELS):
            raise ValueError(f"setting rights: objects takes a level of {', '.join(LEVELS)} for each name")
        for name, value in changes.items():
            if name not in ("view_setup", "view_all_data", "view_all_users", "objects"):
                raise ValueError(f"setting rights: there is no {name!r}")
            if name != "objects" and not isinstance(value, bool):
                raise ValueError(f"setting rights: {name} takes bool, not {value!r}")
        for name in changes.keys() - {"objects"}:
            setattr(self, name, changes[name])
        self.objects.update(objects)

    def level(self, entity: str) -> str:
        """What is granted on one object by itself."""
        return self.objects.get(entity, "view_all")

    def may_read(self, entity: Entity) -> bool:
        """Whether the object, or the platform event, exists for the user."""
        return self.view_all_data or self.level(entity.name) != "none"

    def gets_events(self, entity: Entity) -> bool:
        """Whether its events are delivered."""
        if self.view_all_data:
            return True
        if entity.is_platform_event:
            return self.level(entity.name) != "none"
        if entity.name == "User":
            return self.view_all_users
        return self.level(entity.name) == "view_all" and entity.name not in ONLY_WITH_VIEW_ALL_DATA

    def rows(self, source: str, user_id: str, entities: Iterable[Entity]) -> Iterator[Row]:
        """The rows of PermissionSetAssignment, PermissionSet or ObjectPermissions: one permission set has it all."""
        if source == "PermissionSetAssignment":
            yield {"Id": "0PaRj0000001kniKAA", "AssigneeId": user_id, "PermissionSetId": PERMISSION_SET}
        elif source == "PermissionSet":
            yield {"Id": PERMISSION_SET, "Name": "Change_events", "PermissionsViewSetup": self.view_setup,
                   "PermissionsViewAllData": self.view_all_data, "PermissionsViewAllUsers": self.view_all_users,
                   "PermissionsModifyAllData": False, "PermissionsApiEnabled": True}  # fmt: skip
        else:
            for number, entity in enumerate(entities):
                level = self.level(entity.name)
                if level != "none":
                    yield {"Id": f"110Rj00000{number:05d}AAA", "ParentId": PERMISSION_SET, "SobjectType": entity.name,
                           "PermissionsRead": True, "PermissionsViewAllRecords": level == "view_all",
                           "PermissionsModifyAllRecords": False}  # fmt: skip


PERMISSION_OBJECTS = ("PermissionSetAssignment", "PermissionSet", "ObjectPermissions")
