"""Actors, under Ray's module name: `ActorClass`, `ActorHandle`, `method`, and ending the actor one is in."""

from shoal.runtime.client.actors import ActorClass, ActorHandle, ActorMethod, method
from shoal.runtime.client.context import exit_actor

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor", "method"]
