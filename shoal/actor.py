"""Actors, under Ray's module name: `ActorClass`, `ActorHandle`, `method`, and ending the actor one is in."""

from shoal.runtime.client.actors import ActorClass, ActorHandle, method

__all__ = ["ActorClass", "ActorHandle", "method"]
