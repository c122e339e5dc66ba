"""Deployment: a model as a folder that runs on a device without Python."""

from compiler.deploy.board import Board, deploy_to_board
from compiler.deploy.folder import Deployment, write_deployment
from compiler.deploy.libraries import runtime_libraries
from compiler.deploy.runner import build_runner

__all__ = [
    "Board",
    "Deployment",
    "build_runner",
    "deploy_to_board",
    "runtime_libraries",
    "write_deployment",
]
