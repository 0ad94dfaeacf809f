"""Evaluation: network outputs to detections, detections to mAP. (Import from its modules: `eval` hides a builtin.)"""
